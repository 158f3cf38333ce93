"""The defects that kept the earlier public implementation from learning, one test each."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core import edm
from genprop_core.adapters import GAIN_SPEED, GenPropAdapters, Injection, MaskPredictionDecoder, Selection
from genprop_core.attach import attach, tap_modules
from genprop_core.conditioning import SCALING
from genprop_core.config import AdapterConfig, BaseShape
from genprop_core.errors import GenPropError
from genprop_core.unet import denoise
from trainer.step import StepSettings, draw, loss_terms, selectivity, stack


def layers(adapters):
    """The injection layers by their tap; with the shown source there is none after conv_in."""
    return {index: layer for index, layer in enumerate(adapters.injections) if isinstance(layer, Injection)}


def _steps(adapters, unet, count):
    condition = tiny_condition(batch=3)
    condition = type(condition)(**{**vars(condition), "task": torch.arange(3)})
    g = torch.Generator().manual_seed(0)
    target = torch.randn(condition.source.shape, generator=g)
    mask = (torch.rand(3, 4, 1, 8, 8, generator=g) > 0.7).float()
    optimizer = torch.optim.Adam(adapters.trainable(), lr=1e-3)
    settings = StepSettings(cond_dropout=0.0)
    with attach(unet, adapters.config.num_blocks) as taps:
        for step in range(count):
            random = stack([draw(10 * step + i, target.shape[1:], settings) for i in range(3)])
            terms = loss_terms(unet, taps, adapters, condition, target, mask, random, settings)
            optimizer.zero_grad()
            terms["total"].backward()
            optimizer.step()
    return terms


@pytest.mark.parametrize("sce, normed", [("static", False), ("fused", False), ("static", True)])
def test_everything_moves(sce, normed):
    """Defect 1: one step moves every injection convolution, two move gates, norms and the whole SCE."""
    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet, sce=sce, injection_norm=normed)
    before = {k: v.clone() for k, v in adapters.named_parameters()}
    _steps(adapters, unet, 1)
    assert adapters.shown.gain.all() and list(layers(adapters)) == list(range(1, len(adapters.injections)))
    for index, layer in layers(adapters).items():
        assert not torch.equal(layer.conv.weight, before[f"injections.{index}.conv.weight"])
    adapters = GenPropAdapters.from_unet(unet, sce=sce, injection_norm=normed)
    _steps(adapters, unet, 2)
    still = [k for k, v in adapters.named_parameters() if v.requires_grad and torch.equal(v, before[k])]
    assert still == []
    frozen = {k for k, v in adapters.named_parameters() if not v.requires_grad}
    assert all(any(part in k for part in ("shown.conv", ".attn2.to_q", ".attn2.to_k", ".norm2.")) for k in frozen)
    assert len(frozen) > 1 and adapters.shown.conv.weight.equal(unet.conv_in.weight[:, 4:])
    assert all(p.grad is None for p in unet.parameters())


def test_frozen_parts_would_get_no_gradient_anyway():
    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet)
    adapters.requires_grad_(True)
    with torch.no_grad():
        for layer in layers(adapters).values():
            layer.conv.weight.normal_(std=0.1)
    _steps(adapters, unet, 1)
    for name, parameter in adapters.named_parameters():
        if ".attn2.to_q" in name or ".attn2.to_k" in name or (".norm2." in name and "transformer_blocks" in name):
            assert parameter.grad is None or parameter.grad.abs().max() < 1e-7, name


@pytest.mark.parametrize("sigma", [0.002, 0.05, 0.5, 1.0, 7.0, 80.0, 700.0])
def test_a_perfect_network_recovers_the_latent_at_every_noise_level(sigma):
    """Defect 2: c_in, c_noise and the noise are those of the network's training."""
    g = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 2, 4, 4, 4, generator=g, dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=g, dtype=torch.float64)
    level = torch.tensor([sigma], dtype=torch.float64)
    noisy = clean + sigma * noise

    def perfect(x, c_noise):
        torch.testing.assert_close(c_noise, 0.25 * level.log())
        torch.testing.assert_close(x, noisy / (sigma**2 + 1) ** 0.5)
        # v-prediction: v = (noise - sigma * clean) / sqrt(sigma^2 + 1) of the unit-variance input
        return (noise - sigma * clean) / (sigma**2 + 1) ** 0.5

    torch.testing.assert_close(edm.denoise(perfect, noisy, level), clean, rtol=0, atol=1e-9)


def test_training_and_sampling_use_one_image_condition():
    """Defect 3: the cache and the pipeline encode the keyframe by the same unscaled function."""
    from diffusers import AutoencoderTiny
    from tiny import tiny_temporal_vae

    from genprop_core.conditioning import SCALING, encode_frames

    frames = torch.rand(2, 3, 64, 64) * 2 - 1
    for vae in (tiny_temporal_vae(), AutoencoderTiny()):
        torch.testing.assert_close(
            encode_frames(vae, frames, scaled=False) * SCALING, encode_frames(vae, frames, scaled=True)
        )


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_addition_reaches_every_skip_connection(blocks):
    """Defect 4: what is added at a tap is in the skip connection that the up blocks receive."""
    unet, condition = tiny_unet(), tiny_condition()
    skips = []

    def receive(module, args, kwargs):
        skips.extend(reversed(kwargs["res_hidden_states_tuple"]))

    handles = [b.register_forward_pre_hook(receive, with_kwargs=True) for b in unet.up_blocks]

    def run(taps_add):
        skips.clear()
        with attach(unet, blocks) as taps:
            taps.add = taps_add
            unet(
                torch.cat([condition.source, condition.image_latents], 2),
                torch.tensor([0.3]),
                condition.clip,
                condition.micro,
            )
        return list(reversed(skips))

    count = len(tap_modules(unet, blocks))
    plain = run(None)
    for tap in range(count):
        extra = torch.full_like(plain[tap], 0.25)
        changed = run([extra if i == tap else None for i in range(count)])
        torch.testing.assert_close(changed[tap], plain[tap] + 0.25)
        assert all(torch.equal(a, b) for a, b in zip(changed[:tap], plain[:tap]))
    [h.remove() for h in handles]


def test_default_taps_of_svd():
    svd = BaseShape((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 1024, 256)
    assert AdapterConfig(svd).tap_widths() == [320, 320, 320, 320, 640, 640, 640]
    blocks = AdapterConfig(svd, taps="blocks", show_source=False)
    assert blocks.active_taps() == [False, False, False, True, False, False, True]
    with pytest.raises(GenPropError, match="show_source needs .* got selection on and taps 'blocks'"):
        AdapterConfig(svd, taps="blocks")
    with pytest.raises(GenPropError, match="got selection off and taps 'skips'. Switch show_source off"):
        AdapterConfig(svd, selection=False)


@pytest.mark.parametrize("frames,height,width", [(1, 4, 4), (3, 5, 9), (25, 8, 16)])
def test_mask_decoder_takes_any_size(frames, height, width):
    """Defect 6."""
    logits = MaskPredictionDecoder(64)(torch.randn(2 * frames, 64, height, width), frames)
    assert logits.shape == (2, frames, 1, height, width)


@pytest.mark.parametrize("shows", [True, False])
def test_the_selection_says_where_what_is_injected(shows):
    """What is kept is shown, and what is near an edit gets the other injections; without showing, what is kept does."""
    adapters = GenPropAdapters.from_unet(tiny_unet(), show_source=shows)
    c = tiny_condition(batch=2)
    inputs = c.source, c.keyframe, c.clip, c.micro, c.task
    with torch.no_grad():
        for layer in layers(adapters).values():
            layer.conv.weight.normal_(std=0.1)
        if shows:
            adapters.shown.gain.fill_(1 / GAIN_SPEED)
        keep = 1 - adapters.encode_and_select(*inputs)[1].sigmoid()
        assert keep.shape == (2, 4, 1, 8, 8) and 0.9 < keep.min() < 1

        def injected(edited):
            adapters.selection.out.bias.fill_(100.0 if edited else -100.0)
            first, *others = (bool(f.any()) for f in adapters.encode(*inputs))
            return first, set(others)

        assert injected(edited=True) == (False, {shows})
        assert injected(edited=False) == (True, {not shows})


def test_near_an_edit_is_within_one_latent_pixel():
    keep = torch.ones(1, 1, 9, 9)
    keep[..., 4, 3] = 0.25
    near = Selection.near(keep)
    expected = torch.zeros(1, 1, 9, 9)
    expected[..., 3:6, 2:5] = 0.75
    assert near.equal(expected)


def test_selection_depends_on_the_features_where_it_has_learned():
    adapters = GenPropAdapters.from_unet(tiny_unet())
    torch.nn.init.normal_(adapters.selection.out.weight)
    c = tiny_condition(batch=1)
    rest = c.keyframe, c.clip, c.micro, c.task
    with torch.no_grad():
        a, b = (adapters.encode_and_select(s, *rest)[1] for s in (c.source, c.source.flip(-1)))
    assert (a - b).abs().max() > 0.01


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_the_shown_source_is_the_image_condition_where_it_is_kept(sce):
    """Injected after conv_in with a gain of 1 it is, to rounding, what the UNet makes of that image condition."""
    unet, c = tiny_unet(), tiny_condition(batch=2)
    c = replace(c, keyframe=c.image_latents)
    adapters = GenPropAdapters.from_unet(unet, sce=sce)
    x, sigma = torch.randn_like(c.source), torch.tensor([0.5, 3.0])
    before = c.source.clone(), c.keyframe.clone()
    with torch.no_grad():
        for layer in layers(adapters).values():  # the fused form's start small, not at zero
            layer.conv.weight.zero_()
        torch.nn.init.normal_(adapters.selection.out.weight)
        inputs = c.source, c.keyframe, c.clip, c.micro, c.task
        injected, logits = adapters.encode_and_select(*inputs)
        assert not any(f.any() for f in injected)  # nothing is shown at the start
        adapters.shown.gain.fill_(1 / GAIN_SPEED)
        injected, logits = adapters.encode_and_select(*inputs)
        keep = 1 - logits.sigmoid()
        assert keep.max() - keep.min() > 0.1
        mixed = replace(c, image_latents=keep * c.source / SCALING + (1 - keep) * c.keyframe)
        expected, plain = denoise(unet, x, sigma, mixed), denoise(unet, x, sigma, c)
        with attach(unet, 2) as taps:
            made = denoise(unet, x, sigma, c, taps, adapters, injected if sce == "static" else None)
    if sce == "static":  # the fused form's selection sees the UNet's features too
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    assert (expected - plain).abs().max() > 0.01 and (made - plain).abs().max() > 0.01
    assert before[0].equal(c.source) and before[1].equal(c.keyframe)


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_the_source_is_not_shown_where_there_is_no_image_condition(sce):
    unet, c = tiny_unet(), tiny_condition(batch=2)
    adapters = GenPropAdapters.from_unet(unet, sce=sce)
    x, sigma, drop = torch.randn_like(c.source), torch.tensor([0.5, 3.0]), torch.tensor([True, False])

    def made():
        injected = adapters.encode(c.source, c.keyframe, c.clip, c.micro, c.task) if sce == "static" else None
        with attach(unet, 2) as taps:
            return denoise(unet, x, sigma, c, taps, adapters, injected, drop=drop)

    with torch.no_grad():
        without = made()
        adapters.shown.gain.fill_(1 / GAIN_SPEED)
        shown = made()
    assert shown[0].equal(without[0]) and (shown[1] - without[1]).abs().max() > 0.01


def test_at_first_only_copying_counts():
    """selective = 0: neither the mask's error, nor the MPD, nor L_grad pulls on the SCE; the MPD itself learns."""
    unet, grads = tiny_unet(), {}
    for selective in (0.0, 1.0):
        adapters = GenPropAdapters.from_unet(unet, selection=False, show_source=False)
        torch.nn.init.normal_(adapters.injections[1].conv.weight)
        condition, settings = tiny_condition(batch=1), StepSettings(cond_dropout=0.0)
        mask = torch.ones(1, 4, 1, 8, 8)  # no pixel to copy
        random = stack([draw(0, condition.source.shape[1:], settings)])
        with attach(unet, adapters.config.num_blocks) as taps:
            terms = loss_terms(unet, taps, adapters, condition, condition.source, mask, random, settings, selective)
            terms["total"].backward()
        grads[selective] = adapters.sce.conv_in.weight.grad, adapters.mpd.out.weight.grad
    assert grads[0.0][0] is None or not grads[0.0][0].any()
    assert grads[0.0][1].any() and grads[1.0][0].any()


def test_selectivity_is_nothing_then_rises_to_all():
    values = [selectivity(step, 100, 0.1, 0.2) for step in (0, 10, 20, 30, 100)]
    assert values == pytest.approx([0, 0, 0.5, 1, 1])
    assert selectivity(0, 100, 0.0, 0.0) == 1
