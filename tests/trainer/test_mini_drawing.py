"""The base trained by what it draws: as the sampler does it, and compared with the right frames."""

import pytest
import torch

from genprop_core.base import MINI_SAMPLED, load_base
from genprop_core.files import load_tensors, save_tensors
from genprop_core.sampler import SamplerSettings, sample
from genprop_core.unet import denoise
from trainer.mini import base
from trainer.mini.clips import make_clip
from trainer.mini.drawing import LATENTS, LEVELS, PIXELS, drawn_loss, frames_of, half_way
from trainer.mini.export import unpack


def _batch(count=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    names = {"source": (8, 4, 16, 16), "target": (8, 4, 16, 16), "image": (4, 16, 16), "clip": (1, 64)}
    return {k: torch.randn(count, *shape, generator=g) for k, shape in names.items()}


@pytest.fixture(scope="module")
def mini():
    return load_base("mini")


def test_half_way_is_where_the_sampler_is(mini):
    batch = _batch()
    condition = base.make_condition(batch)
    noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(1))
    expected, _ = sample(mini.unet, None, condition, noise, SamplerSettings(**MINI_SAMPLED))
    before = half_way(mini.unet, condition, noise, len(LEVELS) - 1)
    with torch.no_grad():
        made = denoise(mini.unet, before, torch.tensor(LEVELS[-1:]), condition)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    assert half_way(mini.unet, condition, noise, 0).std() > LEVELS[0] / 2 and not before.requires_grad


def test_the_frame_compared_is_the_one_drawn():
    clip = make_clip(5)
    rows, at = torch.tensor([5, 5]), torch.tensor([2, 2])
    frames = frames_of(rows, "source", torch.tensor([False, True]), at)
    assert frames[0].equal(clip.source[2]) and frames[1].equal(clip.source[5])
    assert frames_of(rows[:1], "target", torch.tensor([False]), at[:1])[0].equal(clip.target[2])


@pytest.mark.parametrize("seed", [0, 3])
def test_what_is_drawn_as_it_should_be_costs_nothing_in_pixels(mini, seed):
    batch = _batch(2)
    condition, at = base.make_condition(batch), torch.tensor([1, 6])

    def loss(truth, clean):
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return drawn_loss(mini.unet, mini.vae, clean, condition, truth, at, g)

    g = torch.Generator().manual_seed(seed)
    reached = int(torch.randint(len(LEVELS), (), generator=g))
    x = half_way(mini.unet, condition, torch.randn(batch["target"].shape, generator=g), reached)
    with torch.no_grad():
        made = denoise(mini.unet, x, torch.full((2,), LEVELS[reached]), condition)
        truth = mini.vae.decode(made[[0, 1], at], return_dict=False)[0] / 2 + 0.5
    total, pixels = loss(truth, made)
    assert pixels < 1e-8 and total < 1e-5
    total, pixels = loss(truth + 0.1, made + 1)
    assert abs(pixels - 0.01) < 1e-5 and abs(total - PIXELS * 0.01 - LATENTS) < 1e-2


def test_going_on_leaves_the_first_layer_to_the_adapters(tmp_path, monkeypatch):
    unpack(tmp_path)
    start = tmp_path / "start.safetensors"
    (tmp_path / "base.safetensors").rename(start)
    (tmp_path / "cache").mkdir()
    rows = {k: v.half() for k, v in _batch(50).items() if k in ("source", "target")}
    rows["mask"] = torch.zeros(50, 8, 1, 16, 16, dtype=torch.half)
    for side in ("source", "target"):
        rows[f"key_{side}"] = torch.randn(50, 2, 4, 16, 16).half()
        rows[f"clip_{side}"] = torch.randn(50, 2, 64).half()
    save_tensors(tmp_path / "cache" / "000000.safetensors", rows, {})
    monkeypatch.setattr(base, "_check", lambda unet, pairs: {})
    base.train(tmp_path, 0, start=start, steps=3)
    before, after = load_tensors(start)[0], load_tensors(tmp_path / "base.safetensors")[0]
    kept = {k for k in before if before[k].equal(after[k])}
    assert {"conv_in.weight", "conv_in.bias"} <= kept and len(kept) < len(before) / 2
