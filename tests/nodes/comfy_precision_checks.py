"""The nodes in the precisions that ComfyUI chooses on a GPU, or by its options: on the CPU it takes fp32 for all."""
from contextlib import contextmanager
from unittest import mock

import torch
from comfy_shared import apply, condition, encode, ksampler, mini, refuses, relative, sampler


@contextmanager
def options(pack, **changes):
    """Within, ComfyUI was started with these options; what the checks share is loaded anew, before and after."""
    from comfy.cli_args import args

    with mock.patch.multiple(args, **{"force_fp32": False, **changes}):
        _forget()
        try:
            yield
        finally:
            _forget()


def _forget():
    for shared in (mini, condition):
        shared.cache_clear()


def result(pack):
    """Source latents, sampled latents, decoded clip and mask of the sample workflow's nodes."""
    given = encode(pack)
    latents, features = sampler(pack, given=given, steps=2)
    pictures = pack.run("VAEDecode", vae=mini(pack)["vae"], samples={"samples": latents})[0]
    soft = pack.run("GenPropPredictMask", features=features)[0]
    return given.segments[0].condition.source, latents, pictures, soft


def near(made, wanted):
    """Half precision changes a little and no more."""
    for ours, theirs in zip(made, wanted):
        assert ours.isfinite().all() and relative(ours.float(), theirs) < 0.06, relative(ours.float(), theirs)


def check_a_vae_of_half_precision(pack):
    """bf16 is what ComfyUI takes on NVIDIA cards since Ampere. There a tiny VAE's scale is rounded too."""
    wanted = result(pack)
    with options(pack, bf16_vae=True):
        assert mini(pack)["vae"].vae_dtype == torch.bfloat16
        near(result(pack), wanted)


def write_taesd(pack, name):
    """The mini's VAE as the two files that Load VAE lists as `name`."""
    from safetensors.torch import save_file

    folder = pack.folder / "models" / "vae_approx"
    folder.mkdir(parents=True, exist_ok=True)
    state = mini(pack)["vae"].first_stage_model.state_dict()
    for part in ("encoder", "decoder"):
        start = f"taesd_{part}."
        weights = {k.removeprefix(start): v.float().contiguous() for k, v in state.items() if k.startswith(start)}
        save_file(weights, folder / f"{name}_{part}.safetensors")


def check_taesd_of_half_precision(pack):
    """As Load VAE gives it, and not that of another model."""
    plain = condition(pack).segments[0].condition.source
    for name in ("taesd", "taesdxl"):
        write_taesd(pack, name)
    for option in ({}, {"bf16_vae": True}):  # fp16 on a CPU takes minutes
        with options(pack, **option):
            vae = pack.run("VAELoader", vae_name="taesd")[0]
            source = encode(pack, vae=vae).segments[0].condition.source
            assert relative(source, plain) < 0.02, (option, relative(source, plain))
            other = pack.run("VAELoader", vae_name="taesdxl")[0]
            refuses("tiny VAE with scale 0.13 instead of 0.18215", encode, pack, vae=other)


def check_a_unet_of_half_precision(pack):
    """In the file alone, and where the device computes in it too; by GenProp's sampler, and by ComfyUI's."""
    import comfy.model_management as mm

    wanted = (*result(pack), ksampler(pack, *apply(pack), steps=2))
    for computes in (False, True):
        device = mock.patch.object(mm, "should_use_bf16", return_value=computes)
        with device, options(pack, bf16_unet=True):
            assert mini(pack)["model"].model_dtype() == torch.bfloat16
            own = next(mini(pack)["adapters"].patcher.model.parameters()).dtype
            assert own == (torch.bfloat16 if computes else torch.float32)
            near((*result(pack), ksampler(pack, *apply(pack), steps=2)), wanted)
