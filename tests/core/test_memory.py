"""Memory settings of the headless pipeline: precision, offload, chunks, and what is said when memory runs out."""
import copy
import json
import re

import pytest
import torch
from svd_checkpoint import Shape, write_checkpoint
from tiny import tiny_temporal_vae

from genprop_core import assets, cli, conditioning
from genprop_core.adapters import GenPropAdapters
from genprop_core.base import Defaults, load_base
from genprop_core.checkpoint import Fingerprint, save_adapters
from genprop_core.components import Components
from genprop_core.convert import convert
from genprop_core.errors import GenPropError
from genprop_core.offload import Placement
from genprop_core.out_of_memory import is_out_of_memory
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

SHAPE = Shape(vae_widths=(32, 32, 32, 64))  # an SVD whose temporal VAE takes 8x8 patches
SIZE = {"width": 64, "height": 64}
SETTINGS = PropagateSettings(sampler=SamplerSettings(steps=2), seed=4, decode_chunk=2, **SIZE)
PARTS = ("unet", "vae", "image_encoder")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(an official file, adapters with every parameter moved)."""
    folder = tmp_path_factory.mktemp("svd")
    write_checkpoint(folder / "svd_xt.safetensors", SHAPE, optional=False)
    unet = load_base(folder / "svd_xt.safetensors").unet
    torch.manual_seed(0)
    adapters = GenPropAdapters.from_unet(unet)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    save_adapters(folder / "adapters.safetensors", adapters, Fingerprint.of_unet(unet), {}, torch.float32)
    return folder / "svd_xt.safetensors", folder / "adapters.safetensors"


@pytest.fixture(scope="module")
def plain(files):
    return GenProp.from_files(*files)


def clip(frames=4, size=64):
    return torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(frames))


# --- precision -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_runs_from_file_to_frames(dtype, files, plain):
    model = GenProp.from_files(*files, dtype=dtype)
    seen = {}

    def see(module, inputs, kwargs):
        seen.update(x=inputs[0].dtype, micro=kwargs["added_time_ids"])

    model.base.unet.register_forward_pre_hook(see, with_kwargs=True)
    result = model.propagate(clip(), clip()[0], SETTINGS)
    assert seen["x"] == dtype and seen["micro"][0].tolist() == pytest.approx([6, 127, 0.02])  # not rounded to bf16
    assert {p.dtype for p in [*model.base.unet.parameters(), *model.adapters.parameters()]} == {dtype}
    assert result.frames.dtype == result.latents.dtype == result.mask.dtype == torch.float32
    exact = plain.propagate(clip(), clip()[0], SETTINGS)
    error = (result.latents - exact.latents).norm() / exact.latents.norm()
    assert error <= {torch.float32: 0, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype], error
    assert result.frames.isfinite().all() and exact.frames.std() > 0.01


def test_svds_vae_encodes_in_float32_where_the_base_is_float16(files):
    """Its encoder overflows in half precision (force_upcast in its config); bfloat16 has float32's range."""
    for dtype, encoder in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        vae = load_base(files[0], dtype).vae
        assert next(vae.encoder.parameters()).dtype == next(vae.quant_conv.parameters()).dtype == encoder
        assert next(vae.decoder.parameters()).dtype == dtype


# --- chunks ----------------------------------------------------------------------------------------------------------
def test_encoding_in_chunks_changes_nothing_and_large_frames_go_one_by_one(monkeypatch):
    vae, frames, sizes = tiny_temporal_vae(), clip(5, 32) * 2 - 1, []
    encode = vae.encode
    vae.encode = lambda x: sizes.append(len(x)) or encode(x)
    whole = conditioning.encode_frames(vae, frames, scaled=False)
    in_chunks = conditioning.encode_frames(vae, frames, scaled=False, chunk=2)
    monkeypatch.setattr(conditioning, "ENCODED_PIXELS", 32 * 32)
    one_by_one = conditioning.encode_frames(vae, frames, scaled=False)
    assert sizes == [5, 2, 2, 1, 1, 1, 1, 1, 1]
    assert (in_chunks - whole).abs().max() < 1e-5 and (one_by_one - whole).abs().max() < 1e-5
    monkeypatch.undo()
    assert conditioning.ENCODED_PIXELS // (1024 * 576) == 1


def test_the_decode_chunk_is_kept_stated_and_checked(plain, files, tmp_path):
    latents = plain.propagate(clip(), clip()[0], SETTINGS).latents
    two, four = (conditioning.decode_latents(plain.base.vae, latents, n) for n in (2, 4))
    assert (two - four).abs().max() > 1e-3  # the temporal decoder mixes the frames of a chunk
    assert torch.equal(plain.propagate(clip(), clip()[0], SETTINGS).frames, two)
    with pytest.raises(GenPropError, match="--decode-chunk to be at least 1 frame, got 0"):
        plain.propagate(clip(), clip()[0], PropagateSettings(decode_chunk=0))
    run = ["propagate", "--source", assets.SAMPLE / "source.mp4", "--keyframe", assets.SAMPLE / "keyframe.png"]
    run += ["--out", tmp_path, "--base", files[0], "--adapters", files[1], "--steps", 1, "--width", 64, "--height", 64]
    assert cli.main([str(a) for a in [*run, "--decode-chunk", 3, "--dtype", "bf16", "--offload"]]) == 0
    stated = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert (stated["decode_chunk"], stated["dtype"], stated["offload"]) == (3, "bf16", True)


# --- offload ---------------------------------------------------------------------------------------------------------
def record_moves(model, device):
    """The order in which parts come to `device` ("+unet") and go back to rest ("-unet")."""
    parts = {name: getattr(model.base, name) for name in PARTS}
    parts |= {"adapters": model.adapters, "injections": model.adapters.injections, "mpd": model.adapters.mpd}
    moves = []
    for name, module in parts.items():

        def to(target, name=name, original=module.to):
            moves.append(("+" if target == device else "-") + name)
            return original(target)

        module.to = to
    return moves


def test_with_offload_each_part_is_on_the_device_only_while_it_works(files, plain):
    device = torch.device("cpu:0")  # another name of the CPU, so that moves to it and back can be told apart
    model = GenProp.from_files(*files, device=device, offload=True)
    moves, running = record_moves(model, device), []
    model.base.unet.register_forward_hook(lambda *_: running.append(len(moves)))
    result = model.propagate(clip(), clip()[0], SETTINGS)
    assert moves == ["+vae", "-vae", "+image_encoder", "-image_encoder", "+adapters", "-adapters",
                     "+unet", "+injections", "+mpd", "-unet", "-injections", "-mpd", "+vae", "-vae"]  # fmt: skip
    assert running == [9, 9]
    exact = plain.propagate(clip(), clip()[0], SETTINGS)
    torch.testing.assert_close(result.frames, exact.frames, rtol=0, atol=1e-3)  # copies lie elsewhere: rounding only
    torch.testing.assert_close(result.mask, exact.mask, rtol=0, atol=1e-3)


def test_with_offload_parts_go_back_after_an_error(files):
    device = torch.device("cpu:0")
    model = GenProp.from_files(*files, device=device, offload=True)
    moves = record_moves(model, device)

    def fail(*_):
        raise KeyboardInterrupt

    model.base.unet.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        model.propagate(clip(), clip()[0], SETTINGS)
    assert moves[-3:] == ["-unet", "-injections", "-mpd"] and sum(m[0] == "+" for m in moves) * 2 == len(moves)


def test_without_offload_nothing_moves(files):
    model = GenProp.from_files(*files, device="cpu")
    moves = record_moves(model, torch.device("cpu"))
    model.propagate(clip(), clip()[0], SETTINGS)
    assert moves == []


def test_a_device_that_is_not_there_is_refused():
    for device in ("nonsense", "meta:x"):
        with pytest.raises(GenPropError, match=rf"device that torch can use here, got {device} \(.*Use --device cpu"):
            Placement(device)


# --- out of memory ---------------------------------------------------------------------------------------------------
CPU = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
WINDOWS = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 B."


@pytest.mark.parametrize(
    "part, method, wanted",
    [
        ("vae", "encode", r"encoding 4 frames at 64x64.*Use --dtype bf16 or fp16, or --vae .*, or a smaller --width"),
        ("unet", "forward", r"sampling 4 frames at 64x64.*Use --dtype bf16 or fp16, or a smaller --window, or a sma"),
        ("vae", "decode", r"decoding 4 frames at 64x64.*Use a smaller --decode-chunk, or --dtype bf16 or fp16, or --v"),
    ],
)
def test_out_of_memory_is_one_line_that_names_the_setting(part, method, wanted, files, monkeypatch):
    model = GenProp.from_files(*files)
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore"), RuntimeError(CPU),
                  RuntimeError(WINDOWS), MemoryError()):  # fmt: skip

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(getattr(model.base, part), method, fail)
        with pytest.raises(GenPropError, match=wanted) as caught:
            model.propagate(clip(), clip()[0], SETTINGS)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
        again = copy.copy(caught.value)  # made as pickle makes it, when it comes from a worker's process
        assert str(again) == str(caught.value) and again.problem == caught.value.problem


def test_settings_in_use_are_not_named(files, monkeypatch):
    model = GenProp.from_files(*files, dtype=torch.bfloat16, offload=True)

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.base.vae, "decode", fail)
    wanted = r"Use --vae with a TAESD file, or a smaller --width and --height\.$"
    with pytest.raises(GenPropError, match=wanted):
        model.propagate(clip(), clip()[0], PropagateSettings(sampler=SETTINGS.sampler, decode_chunk=1, **SIZE))


def test_other_errors_pass_as_they_are(plain, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(plain.base.unet, "forward", fail)
    with pytest.raises(RuntimeError, match="^shapes do not fit$"):
        plain.propagate(clip(), clip()[0], SETTINGS)
    assert not is_out_of_memory(ValueError("out of memory")) and is_out_of_memory(MemoryError())


def test_loading_that_runs_out_of_memory_names_the_precision(files, monkeypatch):
    def fail(*_):
        raise RuntimeError(CPU)

    monkeypatch.setattr("genprop_core.pipeline.load_base", fail)
    with pytest.raises(GenPropError, match=r"loading the base .*can't allocate memory.*Use --dtype bf16 or fp16\.$"):
        GenProp.from_files(*files)


# --- defaults --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "version, frames, num_frames, fps",
    [("svd", 14, 14, 7), ("svd_xt", 25, 25, 7), ("svd_xt_1_1", 25, 25, 6), (None, None, 14, 7), (None, 25, 25, 7)],
)
def test_defaults_of_the_published_bases(version, frames, num_frames, fps):
    class Unet:
        class config:
            sample_size = 96

    made = Defaults.of(Components(Unet, None, None, frames, version))
    assert (made.num_frames, made.fps) == (num_frames, fps)
    assert (made.width, made.height, made.motion_bucket) == (1024, 576, 127)


def test_defaults_of_a_small_base_follow_its_config(files, tmp_path):
    convert(files[0], tmp_path / "folder")
    config = tmp_path / "folder" / "unet" / "config.json"
    config.write_text(re.sub(r'"sample_size": 96', '"sample_size": 16, "num_frames": 8', config.read_text()))
    assert load_base(tmp_path / "folder").defaults == Defaults(num_frames=8, width=128, height=128)
