"""Loading SVD from both layouts: equal weights, whichever files hold them, in the dtype asked for."""
import json
import os
import re
from pathlib import Path

import pytest
import svd_checkpoint
import torch
from peak_memory import peak_memory
from safetensors.torch import load_file, save_file
from svd_checkpoint import CLIP, COPY, TINY, UNET, VAE, random_tensor, write_checkpoint

from genprop_core.base import load_base
from genprop_core.checkpoint import Fingerprint
from genprop_core.components import version_from_name
from genprop_core.convert import convert
from genprop_core.diffusers_folder import load_diffusers_folder, open_diffusers_folder
from genprop_core.single_file import load_single_file, open_single_file
from genprop_core.svd_parts import official_entries
from genprop_core.vae_file import load_vae

LAYERED = svd_checkpoint.Shape((64, 64, 128), 2, 2, (True, False, True), 48, 64, (32, 64, 64), False, 128, 3, 256, 32)


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
    """(official file, the diffusers folder converted from it); read-only for all tests of this module."""
    folder = tmp_path_factory.mktemp("svd")
    write_checkpoint(folder / "base.safetensors")
    convert(folder / "base.safetensors", folder / "base")
    return folder / "base.safetensors", folder / "base"


@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """Both layouts of a base of some 60 M parameters, fp32."""
    folder = tmp_path_factory.mktemp("middling")
    shape = svd_checkpoint.Shape((64, 320, 448), clip_width=256, clip_mlp=1024, clip_layers=4)
    write_checkpoint(folder / "base.safetensors", shape, optional=False)
    convert(folder / "base.safetensors", folder / "base")
    return {"single": folder / "base.safetensors", "folder": folder / "base"}


@pytest.fixture
def copy(svd, tmp_path):
    """The diffusers folder as links, so that a test can take files away."""
    for file in svd[1].rglob("*.*"):
        target = tmp_path / "copy" / file.relative_to(svd[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    return tmp_path / "copy"


def states(base):
    return {n: getattr(base, n).state_dict() for n in ("unet", "vae", "image_encoder")}


def assert_equal(a, b, but=()):
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key in a[name]:
            if not key.startswith(but or "-"):
                assert a[name][key].dtype == b[name][key].dtype and torch.equal(a[name][key], b[name][key]), key


@pytest.mark.parametrize("shape", [TINY, svd_checkpoint.with_tiny_vae(), LAYERED], ids=["tiny", "taesd", "layered"])
def test_every_official_key_has_one_place(shape, tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", shape)
    parts = open_single_file(tmp_path / "a.safetensors")
    covered = []
    for name, part in parts.items():
        covered += [e.official for e in official_entries(name, part.class_name, part.tensors, part.config)]
    required = set(svd_checkpoint.official_shapes(shape, optional=False))
    assert set(covered) - {VAE + "quant_conv.weight", VAE + "quant_conv.bias"} == required - {
        VAE + "vae_scale",
        VAE + "vae_shift",
    }
    assert len(covered) - len(set(covered)) == 4 * shape.clip_layers  # query, key, value share two tensors a layer
    assert set(parts.unused) == set(svd_checkpoint.official_shapes(shape)) - required


def test_values_stand_where_the_layouts_say(svd):
    base = load_single_file(svd[0])
    raw = load_file(svd[0])
    unet, vae, clip = base.unet, base.vae, base.image_encoder
    for ours, official in (
        (unet.conv_in.weight, UNET + "input_blocks.0.0.weight"),
        (unet.down_blocks[1].downsamplers[0].conv.weight, UNET + "input_blocks.4.0.op.weight"),
        (unet.down_blocks[1].attentions[0].temporal_transformer_blocks[0].ff_in.net[2].bias,
         UNET + "input_blocks.3.1.time_stack.0.ff_in.net.2.bias"),
        (unet.mid_block.resnets[1].temporal_res_block.conv2.bias, UNET + "middle_block.2.time_stack.out_layers.3.bias"),
        (unet.up_blocks[0].upsamplers[0].conv.bias, UNET + "output_blocks.1.1.conv.bias"),
        (unet.up_blocks[1].upsamplers[0].conv.bias, UNET + "output_blocks.3.2.conv.bias"),
        (unet.up_blocks[2].attentions[1].time_mixer.mix_factor, UNET + "output_blocks.5.1.time_mixer.mix_factor"),
        (vae.decoder.up_blocks[0].upsamplers[0].conv.weight, VAE + "decoder.up.1.upsample.conv.weight"),
        (vae.decoder.up_blocks[1].resnets[0].spatial_res_block.conv_shortcut.bias,
         VAE + "decoder.up.0.block.0.nin_shortcut.bias"),
        (vae.decoder.mid_block.resnets[1].time_mixer.mix_factor, VAE + "decoder.mid.block_2.mix_factor"),
        (vae.decoder.time_conv_out.weight, VAE + "decoder.conv_out.time_mix_conv.weight"),
        (vae.encoder.mid_block.attentions[0].to_out[0].weight[:, :, None, None],
         VAE + "encoder.mid.attn_1.proj_out.weight"),
        (clip.visual_projection.weight.t(), CLIP + "proj"),
        (clip.vision_model.encoder.layers[1].self_attn.v_proj.weight,
         CLIP + "transformer.resblocks.1.attn.in_proj_weight"),
    ):  # fmt: skip
        want = raw[official]
        assert torch.equal(ours, want[-ours.shape[0] :] if "in_proj" in official else want), official
    assert torch.equal(vae.quant_conv.weight[:, :, 0, 0], torch.eye(8)) and not vae.quant_conv.bias.any()


def test_both_layouts_load_equal_and_frozen(svd):
    single, folder = load_single_file(svd[0]), load_diffusers_folder(svd[1])
    assert_equal(states(single), states(folder), but=("encoder.conv_out", "quant_conv"))
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():  # the folder has the encoder's quant_conv unfolded: the same function
        a, b = (m.vae.encode(frames).latent_dist.mode() for m in (single, folder))
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    for base in (single, folder):
        for model in (base.unet, base.vae, base.image_encoder):
            assert not model.training and not any(p.requires_grad for p in model.parameters())
            assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
        eps = {m.eps for n, m in base.unet.named_modules() if isinstance(m, torch.nn.GroupNorm) and "resnets" in n}
        assert eps == {1e-5} and base.unet.down_blocks[0].attentions[0].norm.eps == 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_asked_for_whatever_the_file_holds(dtype, svd, tmp_path):
    write_checkpoint(tmp_path / "half.safetensors", dtype=torch.float16, optional=False)
    key = UNET + "middle_block.0.in_layers.2.weight"
    for path in (svd[0], tmp_path / "half.safetensors"):
        base = load_single_file(path, dtype)
        assert {p.dtype for m in (base.unet, base.vae, base.image_encoder) for p in m.parameters()} == {dtype}
        want = load_file(path)[key].to(dtype)
        assert torch.equal(base.unet.mid_block.resnets[0].spatial_res_block.conv1.weight, want)
    with pytest.raises(ValueError, match="Expected float32, float16 or bfloat16 for the base, got torch.float64"):
        load_single_file(svd[0], torch.float64)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of anonymous memory")
@pytest.mark.parametrize("kind,dtype", [("single", "float16"), ("folder", "float32")])
def test_memory_is_that_of_the_weights(kind, dtype, middling):
    used = peak_memory(middling[kind], dtype)
    assert used["weights"] > (100e6 if dtype == "float16" else 200e6)
    assert 0.9 * used["weights"] < used["peak"] - used["before"] < 1.15 * used["weights"], used


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_adapters_know_their_base_in_every_dtype_and_layout(dtype, svd):
    expected = load_base(svd[0]).fingerprint()
    assert [load_base(path, dtype).fingerprint() for path in svd[:2]] == [expected] * 2
    assert expected == Fingerprint.of_unet(load_base(svd[0]).unet)


def test_the_file_may_go_while_the_models_live(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors")
    base = load_single_file(tmp_path / "a.safetensors")
    with open(tmp_path / "a.safetensors", "r+b") as file:
        file.truncate(100)
    assert base.unet.conv_out.weight.isfinite().all()


def test_sharded_only(svd, copy):
    for sub, stem in (("unet", "diffusion_pytorch_model"), ("image_encoder", "model")):
        (copy / sub / f"{stem}.safetensors").unlink()
        tensors = load_file(svd[1] / sub / f"{stem}.safetensors")
        names = [f"{stem}-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        weight_map = {key: names[i % 3] for i, key in enumerate(sorted(tensors))}
        for name in names:
            save_file({k: tensors[k] for k in tensors if weight_map[k] == name}, copy / sub / name)
        index = {"metadata": {}, "weight_map": weight_map}
        (copy / sub / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert_equal(states(load_diffusers_folder(copy)), states(load_diffusers_folder(svd[1])))
    (copy / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        ValueError, match="Expected a .safetensors file at .*00002-of-00003.safetensors, but there is none"
    ):
        load_diffusers_folder(copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="Expected diffusion_pytorch_model.safetensors.index.json beside the shards"):
        load_diffusers_folder(copy)


def test_index_may_not_point_elsewhere(copy):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": {"conv_in.weight": "../../secret.safetensors"}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"Expected plain file names in .*, got \.\./\.\./secret"):
        load_diffusers_folder(copy)


def test_fp16_variant_only(svd, copy):
    for sub, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("image_encoder", "model"),
    ):
        tensors = load_file(svd[1] / sub / f"{stem}.safetensors")
        (copy / sub / f"{stem}.safetensors").unlink()
        save_file({k: t.half() for k, t in tensors.items()}, copy / sub / f"{stem}.fp16.safetensors")
    half = states(load_diffusers_folder(copy, torch.float16))
    whole = states(load_diffusers_folder(svd[1], torch.float16))
    assert_equal(half, whole)
    stem = copy / "unet" / "diffusion_pytorch_model"
    os.rename(f"{stem}.fp16.safetensors", f"{stem}-00001-of-00001.fp16.safetensors")
    index = {"weight_map": {k: "diffusion_pytorch_model-00001-of-00001.fp16.safetensors" for k in half["unet"]}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert_equal(states(load_diffusers_folder(copy, torch.float16)), whole)


def test_links_and_read_only_folders(svd, copy, tmp_path):
    (tmp_path / "linked").symlink_to(copy, target_is_directory=True)  # of a folder whose files are links already
    write_checkpoint(tmp_path / "models" / "a.safetensors")
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "models" / "a.safetensors")
    for folder in (tmp_path / "models", copy / "unet", copy):
        os.chmod(folder, 0o555)
    try:
        assert_equal(states(load_diffusers_folder(tmp_path / "linked")), states(load_diffusers_folder(svd[1])))
        assert_equal(states(load_single_file(tmp_path / "a.safetensors")), states(load_single_file(svd[0])))
    finally:
        for folder in (tmp_path / "models", copy, copy / "unet"):
            os.chmod(folder, 0o755)


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
    with pytest.raises(ValueError, match="Expected SD 1.5's TAESD .*, got taesdxl.safetensors"):
        load_vae(tmp_path / "taesdxl.safetensors")
    raw["taesd_decoder.1.weight"], raw["taesd_encoder.14.weight"] = torch.zeros(64, 16, 3, 3), torch.zeros(16, 64, 3, 3)
    save_file(raw, tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match="4 latent channels .*, got 16"):
        load_vae(tmp_path / "both.safetensors")


@pytest.mark.parametrize(
    "name,version",
    [("svd.safetensors", "svd"), ("svd_xt.safetensors", "svd_xt"), ("svd_xt_1_1.safetensors", "svd_xt_1_1"),
     ("stable-video-diffusion-img2vid", "svd"), ("stable-video-diffusion-img2vid-xt", "svd_xt"),
     ("stable-video-diffusion-img2vid-xt-1-1", "svd_xt_1_1"), ("mini.safetensors", None),
     ("models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots/9e43909", "svd_xt")],
)  # fmt: skip
def test_version_by_name(name, version, tmp_path):
    assert version_from_name(tmp_path / name) == version


def test_frames_by_config_then_by_name_of_full_size(svd, copy):
    assert load_single_file(svd[0]).num_frames is None
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").unlink()
    (copy / "unet" / "config.json").write_text(json.dumps({**config, "num_frames": 14}))
    assert open_diffusers_folder(copy).num_frames == 14
    os.rename(copy, copy.with_name("svd_xt"))
    parts = open_diffusers_folder(copy.with_name("svd_xt"))
    assert parts.num_frames == 14 and parts.version is None  # a name says nothing about a base of other widths
