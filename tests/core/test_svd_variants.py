"""Checkpoints that differ from the official one: ComfyUI's names, quant_conv, another VAE."""
import re
import shutil

import pytest
import svd_checkpoint
import torch
from safetensors.torch import load_file, save_file
from svd_checkpoint import CLIP, COPY, VAE, random_tensor, write_checkpoint
from svd_states import assert_equal, states

from genprop_core.convert import convert
from genprop_core.single_file import load_single_file
from genprop_core.vae_file import load_vae


def test_checkpoint_saved_by_comfyui_has_other_clip_names(svd, tmp_path):
    """ImageOnlyCheckpointSave writes CLIP as `conditioner...visual.vision_model.*`, with position_ids."""
    tensors = {k: t for k, t in load_file(svd[0]).items() if not k.startswith((CLIP, COPY))}
    clip = load_file(svd[1] / "image_encoder" / "model.safetensors")
    tensors |= {CLIP + k: t for k, t in clip.items()}
    tensors[CLIP + "vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    save_file(tensors, tmp_path / "saved.safetensors")
    assert_equal(states(load_single_file(tmp_path / "saved.safetensors")), states(load_single_file(svd[0])))


def test_quant_conv_in_a_single_file_is_used(tmp_path, caplog):
    quant = {
        f"quant_conv.{leaf}": random_tensor(f"quant_conv.{leaf}", s)
        for leaf, s in (("weight", (8, 8, 1, 1)), ("bias", (8,)))
    }
    write_checkpoint(tmp_path / "plain.safetensors", optional=False)
    tensors = load_file(tmp_path / "plain.safetensors")
    save_file({**tensors, **{VAE + k: t for k, t in quant.items()}}, tmp_path / "quant.safetensors")
    base = load_single_file(tmp_path / "quant.safetensors")
    assert all(torch.equal(base.vae.state_dict()[k], t) for k, t in quant.items())
    assert "quant_conv is not the identity. It is used here; ComfyUI ignores it" in caplog.text
    post = {
        VAE + "post_quant_conv.weight": torch.eye(4)[:, :, None, None],
        VAE + "post_quant_conv.bias": torch.zeros(4),
    }
    save_file({**tensors, **post}, tmp_path / "post.safetensors")
    assert_equal(
        states(load_single_file(tmp_path / "post.safetensors")),
        states(load_single_file(tmp_path / "plain.safetensors")),
    )
    post[VAE + "post_quant_conv.bias"][1] = 0.5
    save_file({**tensors, **post}, tmp_path / "post.safetensors")
    with pytest.raises(ValueError, match="post_quant_conv that is not the identity"):
        load_single_file(tmp_path / "post.safetensors")


def test_second_vae_copy_that_encodes_otherwise_is_announced(svd, tmp_path, caplog):
    load_single_file(svd[0])
    assert "second VAE copy" not in caplog.text
    tensors = load_file(svd[0])
    tensors[COPY + "quant_conv.weight"] = tensors[COPY + "quant_conv.weight"] + 0.2
    save_file(tensors, tmp_path / "a.safetensors")
    load_single_file(tmp_path / "a.safetensors")
    assert re.search("second VAE copy .* has a quant_conv that first_stage_model lacks", caplog.text)


def test_tiny_vae_alone(svd, tmp_path):
    write_checkpoint(tmp_path / "mini.safetensors", svd_checkpoint.with_tiny_vae())
    convert(tmp_path / "mini.safetensors", tmp_path / "mini")
    raw = {k.removeprefix(VAE): t for k, t in load_file(tmp_path / "mini.safetensors").items() if k.startswith(VAE)}
    pair = tmp_path / "pair"
    pair.mkdir()
    for half in ("encoder", "decoder"):
        found = {k.removeprefix(f"taesd_{half}."): t for k, t in raw.items() if k.startswith(f"taesd_{half}.")}
        save_file(found, pair / f"taesd_{half}.safetensors")
    save_file(raw, tmp_path / "both.safetensors")
    diffusers_file = tmp_path / "mini" / "vae" / "diffusion_pytorch_model.safetensors"
    want = load_single_file(tmp_path / "mini.safetensors").vae.state_dict()
    files = [pair / "taesd_encoder.safetensors", pair / "taesd_decoder.safetensors", tmp_path / "both.safetensors"]
    for path in (*files, diffusers_file, tmp_path / "mini" / "vae", tmp_path / "mini", tmp_path / "mini.safetensors"):
        assert_equal({"": load_vae(path).state_dict()}, {"": want})
    assert load_vae(svd[1], torch.float16).config.scaling_factor == 0.18215
    (pair / "taesd_decoder.safetensors").unlink()
    with pytest.raises(ValueError, match="Expected TAESD's decoder as .*taesd_decoder.safetensors"):
        load_vae(pair / "taesd_encoder.safetensors")
    cached = tmp_path / "models--madebyollin--taesdxl" / "snapshots" / "9e43909"
    shutil.copytree(tmp_path / "mini" / "vae", cached)
    for path in (tmp_path / "taesdxl.safetensors", cached, cached / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(ValueError, match=rf"Expected SD 1.5's TAESD .*, got another's .{re.escape(str(path))}"):
            load_vae(path)
    raw["taesd_decoder.1.weight"], raw["taesd_encoder.14.weight"] = torch.zeros(64, 16, 3, 3), torch.zeros(16, 64, 3, 3)
    save_file(raw, tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match="4 latent channels .*, got 16"):
        load_vae(tmp_path / "both.safetensors")
