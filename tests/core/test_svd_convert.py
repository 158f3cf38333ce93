"""Conversion between the layouts: there and back to the bit, and nothing written when it cannot be."""
import errno
import json

import diffusers
import pytest
import svd_checkpoint
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from svd_checkpoint import COPY, TINY, VAE, random_tensor, write_checkpoint

from genprop_core.convert import convert, official_tensors
from genprop_core.diffusers_folder import load_diffusers_folder
from genprop_core.errors import GenPropError
from genprop_core.lazy_tensors import LazyTensor, write_lazy
from genprop_core.mini import read_mini, save_mini
from genprop_core.single_file import load_single_file, open_single_file

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


def folder_state(folder):
    return {
        f"{n}.{k}": t for n, stem in STEMS.items() for k, t in load_file(folder / n / f"{stem}.safetensors").items()
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [TINY, svd_checkpoint.with_tiny_vae()], ids=["temporal", "taesd"])
def test_there_and_back_is_bit_identical(shape, dtype, tmp_path, caplog):
    write_checkpoint(tmp_path / "a.safetensors", shape, dtype)
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c.safetensors")
    convert(tmp_path / "c.safetensors", tmp_path / "d")
    before, after = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "c.safetensors")
    required = svd_checkpoint.official_shapes(shape, optional=False)
    scale = {k for k in required if k.endswith(("vae_scale", "vae_shift"))}  # ours to set, always fp32
    assert_same({k: before[k] for k in required if k not in scale}, {k: after[k] for k in required if k not in scale})
    lost = before.keys() - required.keys()
    assert f"{len(lost)} optional tensors have no place in a diffusers folder" in caplog.text
    assert "conditioner.embedders.3.*" in caplog.text and "conditioner.embedders.0.*" in caplog.text
    assert_same(folder_state(tmp_path / "b"), folder_state(tmp_path / "d"))
    for name in STEMS:
        config = (tmp_path / "b" / name / "config.json").read_text()
        assert json.loads(config) == json.loads((tmp_path / "d" / name / "config.json").read_text())


def test_quant_conv_is_folded_and_kept(tmp_path, caplog):
    """A folder whose VAE has its own quant_conv: ComfyUI must see the same encoder, and the way back must be exact."""
    write_checkpoint(tmp_path / "a.safetensors", optional=False)
    convert(tmp_path / "a.safetensors", tmp_path / "folder")
    weights = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    vae = load_file(weights)
    assert torch.equal(vae["quant_conv.weight"][:, :, 0, 0], torch.eye(8)) and not vae["quant_conv.bias"].any()
    vae |= {k: random_tensor(k, tuple(vae[k].shape)) for k in ("quant_conv.weight", "quant_conv.bias")}
    save_file(vae, weights)
    convert(tmp_path / "folder", tmp_path / "b.safetensors")
    assert "it is folded into encoder.conv_out" in caplog.text
    single = load_file(tmp_path / "b.safetensors")
    assert VAE + "quant_conv.weight" not in single and COPY + "quant_conv.weight" in single
    assert torch.equal(single[COPY + "encoder.conv_out.weight"], vae["encoder.conv_out.weight"])
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mine = load_single_file(tmp_path / "b.safetensors").vae.encode(frames).latent_dist.parameters
        want = load_diffusers_folder(tmp_path / "folder").vae.encode(frames).latent_dist.parameters
        plain = load_single_file(tmp_path / "a.safetensors").vae.encode(frames).latent_dist.parameters
    assert (mine - want).abs().max() < 1e-5 * want.abs().max() < (plain - want).abs().max()
    convert(tmp_path / "b.safetensors", tmp_path / "back")
    assert_same(folder_state(tmp_path / "back"), folder_state(tmp_path / "folder"))


def test_configs_travel_in_the_file(tmp_path):
    """CLIP's heads and the clip length cannot be read off shapes; a converted file says them."""
    write_checkpoint(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    changed = {"unet": {"num_frames": 8}, "image_encoder": {"num_attention_heads": 4, "hidden_act": "quick_gelu"}}
    for name, values in changed.items():
        path = tmp_path / "b" / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    convert(tmp_path / "b", tmp_path / "c.safetensors")
    base = load_single_file(tmp_path / "c.safetensors")
    assert base.num_frames == 8 == base.unet.config.num_frames
    assert base.image_encoder.config.num_attention_heads == 4 and base.image_encoder.config.hidden_act == "quick_gelu"
    pixels = random_tensor("pixels", (1, 3, 224, 224))
    with torch.no_grad():
        want = load_diffusers_folder(tmp_path / "b").image_encoder(pixels).image_embeds
        assert torch.equal(base.image_encoder(pixels).image_embeds, want)
        assert not torch.equal(load_single_file(tmp_path / "a.safetensors").image_encoder(pixels).image_embeds, want)


def test_the_mini_file_feeds_both_layouts(tmp_path):
    """The mini's own file, and the official and the diffusers layout made from it, are the same base."""
    write_checkpoint(tmp_path / "a.safetensors", svd_checkpoint.with_tiny_vae(), torch.float16)
    base = load_single_file(tmp_path / "a.safetensors", torch.float16)
    base.unet.register_to_config(num_frames=8)
    save_mini(tmp_path / "mini.safetensors", {name: getattr(base, name) for name in STEMS}, {"trained": "not at all"})
    official = {k: t.read() for k, t in official_tensors(open_single_file(tmp_path / "mini.safetensors")).items()}
    want = load_file(tmp_path / "a.safetensors")
    scale = {k for k in want if k.endswith(("vae_scale", "vae_shift"))}
    required = svd_checkpoint.official_shapes(svd_checkpoint.with_tiny_vae(), optional=False).keys()
    assert official.keys() == required
    assert_same({k: official[k] for k in required - scale}, {k: want[k] for k in required - scale})
    assert [official[k].item() for k in sorted(scale)] == pytest.approx([0.18215, 0.0])
    convert(tmp_path / "mini.safetensors", tmp_path / "folder")
    for other in (load_diffusers_folder(tmp_path / "folder"), load_single_file(tmp_path / "mini.safetensors")):
        stored = read_mini(tmp_path / "mini.safetensors")[0]
        for name in STEMS:
            loaded = {k: v for k, v in getattr(other, name).state_dict().items() if v.is_floating_point()}
            assert_same(loaded, {k: v.float() for k, v in stored[name].items()})
        assert other.num_frames == 8


@pytest.mark.parametrize("shape", [TINY, svd_checkpoint.with_tiny_vae()], ids=["temporal", "taesd"])
def test_diffusers_itself_loads_the_folder(shape, tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", shape)
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    pipe = diffusers.StableVideoDiffusionPipeline.from_pretrained(tmp_path / "b", local_files_only=True)
    base = load_diffusers_folder(tmp_path / "b")
    for name in STEMS:
        assert_same(getattr(pipe, name).state_dict(), getattr(base, name).state_dict())
    sigmas = pipe.scheduler
    sigmas.set_timesteps(25)
    assert (
        sigmas.sigmas[0] == 700
        and abs(sigmas.sigmas[-2] - 0.002) < 1e-6
        and sigmas.config.prediction_type == "v_prediction"
    )
    assert sigmas.timesteps[0] == pytest.approx(0.25 * torch.tensor(700.0).log().item(), rel=1e-5)


def test_paths_are_checked_before_anything_is_written(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    for src, dst, match in (
        ("a.safetensors", "b", "Expected a new path to write to, but .*b exists"),
        ("b", "a.safetensors", "exists"),
        ("b", "c", "Expected the name of a .safetensors file"),
        ("a.safetensors", "c.safetensors", "Expected the name of a folder"),
        ("nowhere.safetensors", "c", "there is none"),
    ):
        with pytest.raises(ValueError, match=match):
            convert(tmp_path / src, tmp_path / dst)
    path = tmp_path / "b" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": [2, 2, 4]}))
    with pytest.raises(ValueError, match="heads of width 64, got .*cannot say so"):
        convert(tmp_path / "b", tmp_path / "c.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b"]


def test_a_failing_conversion_leaves_nothing(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "a.safetensors")
    monkeypatch.setattr("genprop_core.convert.svd_config.SCHEDULER", {"_class_name": object()})
    with pytest.raises(TypeError):
        convert(tmp_path / "a.safetensors", tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_place_that_cannot_be_written_and_a_full_disk_are_one_line(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "a.safetensors")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GenPropError, match=r"to write .*below to, but it cannot be written \(.+\)\. Choose another"):
        convert(tmp_path / "a.safetensors", tmp_path / "file" / "below")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genprop_core.convert.write_lazy", full)
    with pytest.raises(GenPropError, match=r"cannot be written \(No space left on device\)\. Choose another, or make"):
        convert(tmp_path / "a.safetensors", tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "file"]


def test_files_are_written_as_the_library_writes_them(tmp_path):
    tensors = {
        "b": torch.randn(3, 5).half(),
        "a": torch.randn(7),
        "c": torch.tensor(2.5),
        "d": torch.randn(2, 3).bfloat16(),
    }
    write_lazy(tmp_path / "a.safetensors", {k: LazyTensor.of(t) for k, t in tensors.items()}, {"note": "x"})
    save_file(tensors, tmp_path / "b.safetensors", {"note": "x"})
    for name in ("a", "b"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == {"note": "x"}
            assert_same({k: file.get_tensor(k) for k in file.keys()}, tensors)
    assert (tmp_path / "a.safetensors").stat().st_size == (tmp_path / "b.safetensors").stat().st_size
    with pytest.raises(ValueError, match="another shape or dtype than announced"):
        write_lazy(tmp_path / "c.safetensors", {"x": LazyTensor((2,), torch.float32, lambda: torch.zeros(3))})
    assert not (tmp_path / "c.safetensors").exists()
