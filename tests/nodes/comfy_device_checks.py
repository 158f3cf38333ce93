"""The nodes where ComfyUI computes on another device than the CPU: what a GPU refuses is found without one."""
import sys
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from unittest import mock

import torch
from comfy_clip_checks import keyframes, long_source, propagate
from comfy_shared import apply, clip, condition, encode, ksampler, mini, reference, refuses, relative, sampler

MEMORY = 1 << 40


@contextmanager
def elsewhere(pack, memory=MEMORY, state="NORMAL_VRAM"):
    """Within, ComfyUI's device is one whose tensors do not mix with the CPU's; nothing is loaded before or after.

    memory: bytes that are free on it, always.
    """
    import comfy.model_management as mm

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from pretend_device import DEVICE, pretend_device

    def free(device=None, torch_free_too=False):
        return (memory, memory) if torch_free_too else memory

    changes = {"get_torch_device": lambda: DEVICE, "get_free_memory": free,
               "get_total_memory": lambda *a, **k: MEMORY, "vram_state": mm.VRAMState[state]}  # fmt: skip
    mm.unload_all_models()
    with mock.patch.multiple(mm, **changes), pretend_device(same_parameters=False) as device:
        yield device
        with torch.inference_mode():  # as in a server
            mm.unload_all_models()


def _forget():
    """What checks share is loaded anew: it belongs to one device, and a condition to the adapters it was made for."""
    for shared in (mini, condition):
        shared.cache_clear()


def check_every_node_on_another_device(pack):
    """Sampled by each route, the mask read in a pass of its own, decoded, and made window after window."""
    expected, mask = reference(pack, 2)
    wanted = propagate(pack, steps=1)
    with elsewhere(pack) as device:
        _forget()
        try:
            parts, given = mini(pack), encode(pack)
            model = parts["model"]
            assert model.load_device == device
            samples, features = sampler(pack, model, given, steps=2)
            latents = [samples, ksampler(pack, *apply(pack, model, given), steps=2)]
            later = pack.run("GenPropPredictMask", model=model, condition=given, samples={"samples": samples})[0]
            pictures = pack.run("VAEDecode", vae=parts["vae"], samples={"samples": samples})[0]
            made = propagate(pack, model, steps=1)
        finally:
            _forget()
    for value in (*latents, features.probability, later, pictures, made[0], made[2]):
        assert value.device.type == "cpu" and type(value) is torch.Tensor and value.isfinite().all()
    for latent in latents:
        assert relative(latent, expected) < 1e-3, relative(latent, expected)
    assert relative(features.probability, mask) < 1e-3
    assert (made[0] - wanted[0]).abs().mean() < 1e-3 and (made[2] - wanted[2]).abs().mean() < 1e-3


def check_adapters_are_loaded_whole_where_memory_is_short(pack):
    """Core leaves layers of the UNet on the CPU then, and casts them one by one; ours cannot be cast so."""
    expected, mask = reference(pack, 2)
    for memory, state in ((1 << 26, "NORMAL_VRAM"), (MEMORY, "NO_VRAM")):
        with elsewhere(pack, memory, state) as device:
            _forget()
            try:
                given = encode(pack)
                samples, features = sampler(pack, mini(pack)["model"], given, steps=2)
                places = {p.device for p in given.adapters.patcher.model.parameters()}
            finally:
                _forget()
        assert places == {device}, (memory, state, places)
        assert relative(samples, expected) < 1e-3 and relative(features.probability, mask) < 1e-3
        assert {p.device.type for p in given.adapters.patcher.model.parameters()} == {"cpu"}, "and are unloaded whole"


def check_pictures_that_lie_on_another_device(pack):
    """As with --gpu-only, where VAE Decode and Load Image leave theirs there, and Create Video holds them."""
    from comfy_api.latest import InputImpl, Types

    source, given = long_source(pack), keyframes(pack, 0)
    mask = torch.zeros(1, *source.shape[1:3])
    mask[:, 30:66, 30:66] = 1
    settings = {"steps": 1, "crop": "auto", "inner_keyframes": True, "mask_mode": "join"}
    wanted = propagate(pack, source=source, given=given, mask=mask, **settings)
    with elsewhere(pack) as device:
        _forget()
        try:
            with torch.inference_mode():  # as in a server
                picture = given[0][1].movedim(0, -1)[None].to(device)
                away, of_clip, region = source.to(device), clip(pack)[0].to(device), mask.to(device)
                parts = Types.VideoComponents(images=source[:5].to(device), frame_rate=Fraction(8))
            given = pack.run("GenPropKeyframes", image=picture, frame_index=0)[0]
            made = propagate(pack, mini(pack)["model"], source=away, given=given, mask=region, **settings)
            video = InputImpl.VideoFromComponents(parts)
            film = propagate(pack, mini(pack)["model"], source=video, given=given, steps=1)[1].get_components().images
            hidden = encode(pack, source=of_clip, mask=mask)
        finally:
            _forget()
    assert (made[0] - wanted[0]).abs().mean() < 1e-3 and (made[2] - wanted[2]).abs().mean() < 1e-3
    assert film.shape == source[:5].shape and film.device.type == "cpu" and (film - source[:5]).abs().mean() < 0.1
    assert torch.is_tensor(hidden.segments[0].condition.source)


def check_a_model_on_a_device_of_its_own(pack):
    """As by Select Model Device: the adapters follow the MODEL, and go back where the next condition is encoded."""
    with torch.inference_mode():
        model, (expected, mask) = mini(pack)["model"], reference(pack, 2)
    with elsewhere(pack) as device:
        _forget()
        try:
            given = encode(pack)
            adapters = given.adapters.patcher.model
            for _ in range(2):
                assert {p.device for p in adapters.parameters()} == {device}
                samples, features = sampler(pack, model, given, steps=2)
                assert {p.device.type for p in adapters.parameters()} == {"cpu"}
                assert relative(samples, expected) < 1e-3 and relative(features.probability, mask) < 1e-3
                patched, *rest = apply(pack, model, given)
                assert relative(ksampler(pack, patched, *rest, steps=2), expected) < 1e-3
                encode(pack, adapters=given.adapters)
            late, *rest = apply(pack, mini(pack)["model"], given)
            late = late.clone()
            late.model, late.load_device, late.offload_device = model.model, model.load_device, model.offload_device
            refuses("MODEL on meta:0, where the adapters are, got one on cpu. Put Select Model Device before", ksampler,
                    pack, late, *rest, steps=1)  # fmt: skip
        finally:
            _forget()


def check_the_mini_has_one_precision_with_dynamic_vram(pack):
    """There ComfyUI's layers keep the precision of the file, which is half, where the device computes in another."""
    import comfy.model_management as mm

    try:
        import comfy.memory_management as memory
    except ImportError:  # ComfyUI 0.3 has no dynamic VRAM
        return
    if not hasattr(memory, "aimdo_enabled"):
        return
    whole = mock.patch.object(mm, "unet_dtype", lambda *a, **k: torch.float32)
    with whole, mock.patch.object(memory, "aimdo_enabled", True):
        model = pack.run("GenPropLoadMini")[0]
    assert {p.dtype for p in model.model.diffusion_model.parameters()} == {torch.float32}
    assert sampler(pack, model, steps=1)[0].isfinite().all()
