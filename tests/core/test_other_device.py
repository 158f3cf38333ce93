"""Everything on another device than the CPU: what a GPU refuses, tensors of two devices in one operation, is found."""

from dataclasses import replace

import pytest
import torch
from pretend_device import DEVICE, pretend_device
from tiny import tiny_condition, tiny_image_encoder, tiny_temporal_vae, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.base import Base, Defaults
from genprop_core.checkpoint import Fingerprint, load_adapters, save_adapters
from genprop_core.config import BaseShape
from genprop_core.frames import as_bytes
from genprop_core.long_clip import ClipSettings
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings
from trainer.step import StepSettings, draw, loss_terms, stack

SETTINGS = PropagateSettings(sampler=SamplerSettings(steps=2), width=64, height=64, seed=4)
SMALL = BaseShape((32, 32, 32), 1, (1, 1, 1), 32, 32)
CLIP = ClipSettings(window=4, find_shots=False)


def varied(unet, seed=0, **config):
    """Adapters that inject something."""
    torch.manual_seed(seed)
    adapters = GenPropAdapters.from_unet(unet, num_blocks=1, **config)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return adapters


def model(folder, device, sce="static", temporal=False, offload=False):
    from diffusers import AutoencoderTiny

    unet, path = tiny_unet(SMALL), folder / f"{sce}.safetensors"
    if not path.exists():
        save_adapters(path, varied(unet, sce=sce), Fingerprint.of_unet(unet), {}, torch.float32)
    torch.manual_seed(1)
    vae = tiny_temporal_vae() if temporal else AutoencoderTiny().eval()
    base = Base("tiny", unet, vae, tiny_image_encoder(), Defaults(4, 64, 64))
    return GenProp(base, load_adapters(path), device, offload)


def clip(frames, size=64):
    return torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(frames))


def test_the_device_that_is_none_refuses_what_a_gpu_refuses():
    with pretend_device() as device:
        away = torch.ones(3, device=device)
        assert away.device == DEVICE and (away + 1).sum().item() == 6 and away.cpu().equal(torch.ones(3))
        assert torch.tensor([1.0, 2.0], device=device).tolist() == [1.0, 2.0]
        assert (away * torch.tensor(2.0)).device == DEVICE  # a CPU tensor of no dimension is a number
        with pytest.raises(RuntimeError, match="all tensors on one device"):
            away + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, generator=torch.Generator(), device=device)
        layer = torch.nn.Linear(3, 2).to(device)
        layer(away).sum().backward()
        assert layer.weight.grad.device == DEVICE
        with pytest.raises(RuntimeError, match="all tensors on one device"):
            layer(torch.ones(3))


@pytest.mark.parametrize(("sce", "temporal"), [("static", False), ("fused", True)], ids=["taesd", "temporal"])
def test_a_window_is_made_on_the_device_and_comes_back(tmp_path, sce, temporal):
    frames, keyframe = clip(4), clip(5)[0]
    expected = model(tmp_path, "cpu", sce, temporal).propagate(frames, keyframe, SETTINGS)
    with pretend_device() as device:
        there = model(tmp_path, device, sce, temporal)
        assert next(there.base.unet.parameters()).device == DEVICE
        made = there.propagate(frames, keyframe, SETTINGS)
    for a, b in ((made.frames, expected.frames), (made.mask, expected.mask), (made.latents, expected.latents)):
        assert a.device.type == "cpu"
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "offload"),
    [
        (replace(CLIP, composite=True, refine=True, second_pass="blur", colour="gain", guide_later=True), True),
        (replace(CLIP, crop="auto", inner_keyframes=True), False),
    ],
    ids=["second-pass", "crop"],
)
def test_a_long_clip_is_made_on_the_device(tmp_path, settings, offload):
    frames = as_bytes(clip(6))
    keyframes = {0: frames[1], 5: frames[3]}
    settings = replace(SETTINGS, clip=settings)
    expected = model(tmp_path, "cpu").propagate_clip(frames, keyframes, settings)
    with pretend_device() as device:
        made = model(tmp_path, device, offload=offload).propagate_clip(frames, keyframes, settings)
    assert made.frames.device.type == made.mask.device.type == made.confidence.device.type == "cpu"
    difference = (made.frames.int() - expected.frames.int()).abs()
    assert difference.float().mean() < 0.5 and difference.max() < 16  # rounding to bytes, window after window
    torch.testing.assert_close(made.confidence, expected.confidence, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_a_training_step_runs_on_the_device(sce):
    settings = StepSettings(worn_keyframes=1.0, handed_on=True)
    g = torch.Generator().manual_seed(2)
    target, mask = torch.randn(2, 4, 4, 8, 8, generator=g), torch.zeros(2, 4, 1, 8, 8)
    mask[:, :, :, 2:6, 2:6] = 1.0
    random = stack([draw(seed, target.shape[1:], settings) for seed in (3, 4)])

    def step(device):
        unet = tiny_unet(SMALL)
        adapters, condition = varied(unet, sce=sce).to(device), tiny_condition(2).to(device)
        unet.to(device)
        optimizer = torch.optim.AdamW(adapters.trainable(), lr=1e-3)
        there = {k: v.to(device) for k, v in random.items()}
        with attach(unet, 1) as taps:
            terms = loss_terms(unet, taps, adapters, condition, target.to(device), mask.to(device), there, settings)
            terms["total"].backward()
        optimizer.step()
        changed = torch.cat([p.detach().cpu().flatten() for p in adapters.trainable()])
        return {k: float(v.detach()) for k, v in terms.items()}, changed

    expected, trained = step("cpu")
    with pretend_device() as device:
        made, changed = step(device)
    assert made == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert (changed - trained).abs().mean() < 1e-4
