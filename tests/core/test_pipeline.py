"""The headless pipeline on a small random base: counts, windows, sizes, determinism."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_image_encoder, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.base import Base, Defaults
from genprop_core.checkpoint import Fingerprint, load_adapters, save_adapters
from genprop_core.conditioning import decode_latents
from genprop_core.errors import GenPropError
from genprop_core.long_clip import ClipSettings
from genprop_core.pipeline import GenProp, PropagateSettings, nearest_size
from genprop_core.sampler import SamplerSettings, unit_noise
from genprop_core.windows import plan_windows

SETTINGS = PropagateSettings(sampler=SamplerSettings(steps=3), seed=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet, num_blocks=1)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp("model") / "a.safetensors"
    save_adapters(path, adapters, Fingerprint.of_unet(unet), {}, torch.float32)
    base = Base("tiny", unet, AutoencoderTiny().eval(), tiny_image_encoder(), Defaults(4, 64, 64))
    return GenProp(base, load_adapters(path))


def clip(frames=4, height=64, width=64):
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(frames))


def test_one_encode_per_frame_one_sce_call_and_one_unet_batch_per_step(model):
    """The source is encoded once per run, not once per step, and guidance is one batch."""
    counts = {"encoded": 0, "sce": 0, "unet": 0}
    encode = model.base.vae.encode

    def counting(x, *a, **k):
        counts["encoded"] += len(x)
        return encode(x, *a, **k)

    handles = [
        model.adapters.sce.register_forward_hook(lambda *_: counts.__setitem__("sce", counts["sce"] + 1)),
        model.base.unet.register_forward_hook(lambda *_: counts.__setitem__("unet", counts["unet"] + 1)),
    ]
    model.base.vae.encode = counting
    try:
        model.propagate(clip(), clip()[0], SETTINGS)
    finally:
        model.base.vae.encode = encode
        [h.remove() for h in handles]
    assert counts == {"encoded": 4 + 1, "sce": 1, "unet": 3}


def test_the_same_seed_gives_the_same_clip_and_inputs_stay_as_they_are(model):
    frames, keyframe = clip(), clip(5)[0]
    before = frames.clone(), keyframe.clone()
    a, b = (model.propagate(frames, keyframe, SETTINGS) for _ in range(2))
    assert torch.equal(a.frames, b.frames) and torch.equal(a.mask, b.mask)
    assert torch.equal(frames, before[0]) and torch.equal(keyframe, before[1])
    other = model.propagate(frames, keyframe, PropagateSettings(sampler=SETTINGS.sampler, seed=5))
    assert not torch.equal(a.frames, other.frames)


@pytest.mark.parametrize("seed", [2**64, -(2**64), -1])
def test_any_seed_is_one(model, seed):
    assert model.propagate(clip(5), clip(5)[0], replace(SETTINGS, seed=seed)).frames.isfinite().all()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_every_frame_in_comes_out(model, count):
    result = model.propagate((clip(count) * 255).byte(), clip(count)[0], SETTINGS)
    assert result.frames.shape == (count, 3, 64, 64) and result.mask.shape == (count, 1, 8, 8)
    assert result.frames.isfinite().all() and 0 <= result.mask.min() and result.mask.max() <= 1
    assert result.frames.flatten(1).std(dim=1).min() > 0  # no frame was left out
    assert (result.latents is not None) == (count <= 4)


def test_a_clip_of_one_window_is_encoded_sampled_and_decoded_once(model):
    """Bit for bit: neither the engine for long clips nor its noise changes what a single window gives."""
    frames, keyframe = clip(3), clip(5)[0]
    result = model.propagate(frames, keyframe, SETTINGS)
    condition = model.condition(frames, keyframe, SETTINGS, SETTINGS.seed)
    latents, mask = model.sample(condition, unit_noise((1, 3, 4, 8, 8), SETTINGS.seed), SETTINGS.sampler, None)
    assert torch.equal(result.latents, latents[0]) and torch.equal(result.mask, mask[0])
    assert torch.equal(result.frames, decode_latents(model.base.vae, latents[0]))


def test_the_latents_of_a_window_that_ran_backward_are_in_the_order_of_the_frames(model):
    frames = clip(4)
    result = model.propagate(frames, {3: clip(5)[0]}, SETTINGS)
    decoded = decode_latents(model.base.vae, result.latents)
    assert (decoded - result.frames).abs().max() < 1e-4 < (decoded.flip(0) - result.frames).abs().max()


def test_a_keyframe_for_every_frame_conditions_that_frame(model):
    """UNet and SCE are shown the frame's own; one keyframe repeated is one keyframe, bit for bit."""
    frames, (one, other) = clip(4), clip(5)[:2]
    alone, of_other = (model.condition(frames, key, SETTINGS, SETTINGS.seed) for key in (one, other))
    repeated = model.condition(frames, one.expand(4, -1, -1, -1), SETTINGS, SETTINGS.seed)
    assert alone.region is None and repeated.region is None
    assert all(torch.equal(v, vars(repeated)[name]) for name, v in vars(alone).items() if name != "region")
    both = model.condition(frames, torch.stack([one, one, other, other]), SETTINGS, SETTINGS.seed)
    for name in ("image_latents", "keyframe"):
        shown, first, second = (vars(c)[name][0] for c in (both, alone, of_other))
        wanted = torch.cat([first[:2], second[2:]])  # two pictures encoded together differ from one by rounding
        assert (shown - wanted).abs().max() < 1e-4 * (first - second).abs().max()
    assert torch.equal(both.clip, alone.clip) and torch.equal(both.source, alone.source)
    with pytest.raises(GenPropError, match="one for each of 4 frames, got 3"):
        model.condition(frames, clip(3), SETTINGS, SETTINGS.seed)


def test_inner_keyframes_reach_the_model(model):
    frames, keys = clip(4), {0: clip(5)[0], 3: clip(5)[1]}
    off, on = (
        model.propagate(frames, keys, replace(SETTINGS, clip=ClipSettings(inner_keyframes=inner)))
        for inner in (False, True)
    )
    assert not torch.equal(off.frames, on.frames)
    one = model.propagate(frames, keys[0], replace(SETTINGS, clip=ClipSettings(inner_keyframes=True)))
    assert torch.equal(one.frames, model.propagate(frames, keys[0], SETTINGS).frames)


def test_keyframes_of_other_frames_and_clips_to_keep(model):
    frames = clip(6)
    settings = PropagateSettings(SETTINGS.sampler, clip=ClipSettings(composite=True, second_pass="blur"))
    result = model.propagate(frames, {3: clip(5)[0], 5: clip(5)[1]}, SETTINGS)
    assert result.frames.shape == (6, 3, 64, 64) and result.calls == {"windows": 3} and result.latents is None
    kept = model.propagate_clip((frames * 255).byte(), {3: clip(5)[0]}, settings)
    assert kept.frames.dtype == torch.uint8 and kept.frames.shape == frames.shape and len(kept.windows) == 2
    assert kept.seconds["sce_and_loop"] > 0 and kept.confidence.shape == (6,)
    with pytest.raises(GenPropError, match="indices from 0 to 5 for this clip, got 6"):
        model.propagate(frames, {6: clip(5)[0]}, SETTINGS)


def test_windows_cover_the_clip_in_order():
    assert plan_windows(8, 8) == [(0, 8, 0)]
    assert plan_windows(5, 8) == [(0, 5, 0)]
    assert plan_windows(9, 8) == [(0, 8, 0), (1, 9, 8)]
    assert plan_windows(20, 8) == [(0, 8, 0), (7, 15, 8), (12, 20, 15)]
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        plan_windows(5, 1)


def test_sizes_follow_the_base(model):
    assert nearest_size(240 / 432, 128 * 128, 32) == (96, 160)
    assert nearest_size(1, 128 * 128, 32) == (128, 128)
    assert nearest_size(9 / 16, 1024 * 576, 64) == (576, 1024) and nearest_size(16 / 9, 1024 * 576, 64) == (1024, 576)
    assert nearest_size(540 / 972, 1024 * 576, 64) == (576, 1024)
    assert model.working_size(64, 64, PropagateSettings()) == (64, 64)
    assert model.working_size(64, 64, PropagateSettings(width=128, height=96)) == (96, 128)
    with pytest.raises(GenPropError, match=r"multiples of 32 for this base, got 100 x 64"):
        model.working_size(64, 64, PropagateSettings(width=100, height=64))
    with pytest.raises(GenPropError, match=r"multiples of 32 for this base, got 64 x None"):
        model.working_size(64, 64, PropagateSettings(width=64))


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(GenPropError, match="at least 2 frames"):
        model.propagate(clip(1), clip(1)[0], SETTINGS)
    with pytest.raises(GenPropError, match=r"frames \[T,3,H,W\], got shape \(4, 4, 64, 64\)"):
        model.propagate(torch.rand(4, 4, 64, 64), clip(1)[0], SETTINGS)
    with pytest.raises(GenPropError, match=r"aspect ratio \(64x64\), got 96x64. Edit an exported frame"):
        model.propagate(clip(), torch.rand(3, 64, 96), SETTINGS)
    with pytest.raises(GenPropError, match=r"these adapters know \(remove, edit, track\), got 'paint'"):
        model.propagate(clip(), clip()[0], PropagateSettings(sampler=SETTINGS.sampler, task="paint"))


def test_a_keyframe_of_another_size_is_resized(model):
    small = torch.nn.functional.interpolate(clip()[:1], (32, 32))[0]
    assert model.propagate(clip(), small, SETTINGS).frames.shape == (4, 3, 64, 64)


def test_sampler_settings_that_are_not_given_are_the_bases_own():
    model = GenProp.from_files("mini")
    assert model.resolved() == model.resolved(PropagateSettings())
    assert model.resolved().sampler == SamplerSettings(2, max_cfg=1.0, sigma_min=0.2)
    given = PropagateSettings(sampler=SamplerSettings(steps=5, max_cfg=None))
    assert model.resolved(given).sampler == SamplerSettings(steps=5, max_cfg=1.0) and given.sampler.max_cfg is None
    given = PropagateSettings(sampler=SamplerSettings(steps=5, sigma_min=None))
    assert model.resolved(given).sampler == SamplerSettings(steps=5, sigma_min=0.2)
    assert model.resolved(PropagateSettings(sampler=SamplerSettings())).sampler == SamplerSettings(25, max_cfg=3.0)
    calls = []
    frames = torch.rand(4, 3, 64, 64)
    small = PropagateSettings(width=64, height=64)
    made = model.propagate(frames, frames[0], small, progress=lambda *at: calls.append(at))
    assert calls[-1] == (2, 2) and made.frames.shape == frames.shape
    with pytest.raises(GenPropError, match="Expected at least 1 denoising step, got 0"):
        SamplerSettings(steps=0)
    for wrong in (0.0, 700.0):
        with pytest.raises(GenPropError, match=f"lowest noise level above 0 and below 700, got {wrong}"):
            SamplerSettings(sigma_min=wrong)
