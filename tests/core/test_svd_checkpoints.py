"""Loading SVD from both layouts: equal weights, whichever files hold them, in the dtype asked for."""
from pathlib import Path

import pytest
import svd_checkpoint
import torch
from peak_memory import peak_memory
from safetensors.torch import load_file
from svd_checkpoint import CLIP, TINY, UNET, VAE, write_checkpoint
from svd_states import assert_equal, states

from genprop_core.base import load_base
from genprop_core.checkpoint import Fingerprint
from genprop_core.convert import convert
from genprop_core.diffusers_folder import load_diffusers_folder
from genprop_core.single_file import load_single_file, open_single_file
from genprop_core.svd_parts import official_entries

LAYERED = svd_checkpoint.Shape((64, 64, 128), 2, 2, (True, False, True), 48, 64, (32, 64, 64), False, 128, 3, 256, 32)


@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """Both layouts of a base of some 60 M parameters, fp32."""
    folder = tmp_path_factory.mktemp("middling")
    shape = svd_checkpoint.Shape((64, 320, 448), clip_width=256, clip_mlp=1024, clip_layers=4)
    write_checkpoint(folder / "base.safetensors", shape, optional=False)
    convert(folder / "base.safetensors", folder / "base")
    return {"single": folder / "base.safetensors", "folder": folder / "base"}


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
