"""The nodes where ComfyUI computes on another device than the CPU: what a GPU refuses is found without one."""
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from comfy_clip_checks import propagate
from comfy_shared import apply, condition, encode, ksampler, mini, reference, relative, sampler

MEMORY = 1 << 40


@contextmanager
def elsewhere(pack):
    """Within, ComfyUI's device is one whose tensors do not mix with the CPU's; nothing is loaded before or after."""
    import comfy.model_management as mm
    import torch

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from pretend_device import DEVICE, pretend_device

    changes = {"get_torch_device": lambda: DEVICE, "get_free_memory": _memory,
               "get_total_memory": lambda *a, **k: MEMORY, "vram_state": mm.VRAMState.NORMAL_VRAM}  # fmt: skip
    mm.unload_all_models()
    with mock.patch.multiple(mm, **changes), pretend_device(same_parameters=False) as device:
        yield device
        with torch.inference_mode():  # as in a server
            mm.unload_all_models()


def _memory(device=None, torch_free_too=False):
    return (MEMORY, MEMORY) if torch_free_too else MEMORY


def _forget():
    """What checks share is loaded anew: it belongs to one device, and a condition to the adapters it was made for."""
    for shared in (mini, condition):
        shared.cache_clear()


def check_every_node_on_another_device(pack):
    """Sampled by each route, the mask read in a pass of its own, decoded, and made window after window."""
    import torch

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
