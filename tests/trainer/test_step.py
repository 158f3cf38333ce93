"""A training step's random draws, and keyframes as an earlier window would have made them."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.conditioning import SCALING, Condition
from genprop_core.sampler import SamplerSettings, sample
from trainer.step import MOST_STAIN, StepSettings, draw, handed_on, loss_terms, stack, worn

SHAPE = (5, 4, 6, 6)


def condition(batch=2):
    g = torch.Generator().manual_seed(0)
    frames, height, width = SHAPE[0], *SHAPE[2:]
    key = torch.randn(batch, 1, 4, height, width, generator=g).repeat(1, frames, 1, 1, 1)
    source = torch.randn(batch, *SHAPE, generator=g)
    return Condition(key, torch.zeros(batch, 1, 8), torch.zeros(batch, 3), torch.zeros(batch), source, key)


def test_worn_keyframes_change_nothing_else_that_is_drawn():
    without, settings = draw(7, SHAPE, StepSettings()), StepSettings(worn_keyframes=1.0)
    assert all(v.equal(draw(7, SHAPE, settings)[k]) for k, v in without.items() if k != "wear")
    assert not without["wear"].any()
    wears = stack([draw(seed, SHAPE, replace(settings, worn_keyframes=0.25)) for seed in range(400)])["wear"]
    assert wears.shape == (400, 1, 2)
    assert 70 < (wears > 0).any(-1).sum() < 130
    assert 0.9 * MOST_STAIN < wears[..., 0].max() <= MOST_STAIN and 0.9 < wears[..., 1].max() <= 1


def test_a_worn_keyframe_is_stained_by_the_source_inside_the_mask_alone():
    c, mask = condition(), torch.zeros(2, 5, 1, 6, 6)
    mask[:, :, :, 2:4, 2:4] = 1.0
    before = c.keyframe.clone(), c.source.clone()
    made = worn(c, mask, torch.tensor([[[0.25, 0.0]], [[0.0, 0.0]]]))
    key, source = c.keyframe[0, 0], c.source[0, 0] / SCALING
    assert made.keyframe.equal(made.image_latents) and made.source is c.source
    assert made.keyframe[1].equal(c.keyframe[1])
    for frame in made.keyframe[0]:
        torch.testing.assert_close(frame[:, 2:4, 2:4], (0.75 * key + 0.25 * source)[:, 2:4, 2:4])
        assert frame[:, :2].equal(key[:, :2]) and frame[..., 4:].equal(key[..., 4:])
    assert before[0].equal(c.keyframe) and before[1].equal(c.source)


def test_a_worn_keyframe_is_blurred_by_its_own_neighbours():
    c, mask = condition(1), torch.ones(1, 5, 1, 6, 6)
    made = worn(c, mask, torch.tensor([[[0.0, 1.0]]])).keyframe[0, 0]
    torch.testing.assert_close(made[:, 2, 3], c.keyframe[0, 0][:, 1:4, 2:5].mean((1, 2)))
    torch.testing.assert_close(made[:, 0, 0], c.keyframe[0, 0][:, :2, :2].mean((1, 2)))


def test_further_keyframes_of_a_window_stay_as_they_are():
    c = condition(1)
    key = c.keyframe.clone()
    key[:, 3:] = 5.0
    c = replace(c, keyframe=key, image_latents=key)
    made = worn(c, torch.ones(1, 5, 1, 6, 6), torch.tensor([[[0.4, 0.0]]]))
    assert made.keyframe[:, 3:].equal(key[:, 3:]) and not made.keyframe[:, :3].isclose(key[:, :3]).any()


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_a_handed_on_keyframe_is_what_the_adapters_make_at_the_end_of_a_window(sce):
    torch.manual_seed(0)
    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet, sce=sce)
    for layer in adapters.injections[1:]:
        torch.nn.init.normal_(layer.conv.weight, std=0.05)
    c, target = tiny_condition(2), torch.randn(2, 4, 4, 8, 8)
    mask, noise = torch.zeros(2, 4, 1, 8, 8), torch.randn(2, 4, 4, 8, 8)
    mask[:, :, :, 2:4, 2:4] = 1.0
    before = c.keyframe.clone(), c.source.clone(), target.clone()
    with attach(unet, adapters.config.num_blocks) as taps:
        made = handed_on(unet, taps, adapters, c, target, mask, noise)
    last = (target[:, -1:] / SCALING).expand_as(c.keyframe)
    back = replace(c, source=c.source.flip(1), keyframe=last, image_latents=last)
    settings = SamplerSettings(steps=2, max_cfg=1.0, sigma_min=0.2)
    expected = sample(unet, adapters, back, noise.flip(1), settings)[0][:, -1] / SCALING
    for frame in range(4):  # the region and one latent pixel around it
        torch.testing.assert_close(made.keyframe[:, frame, :, 1:5, 1:5], expected[..., 1:5, 1:5], atol=1e-3, rtol=1e-3)
        assert made.keyframe[:, frame, :, 5:].equal(c.keyframe[:, frame, :, 5:])
    assert made.image_latents.equal(made.keyframe) and not made.keyframe.requires_grad
    assert all(a.equal(b) for a, b in zip(before, (c.keyframe, c.source, target)))


def test_a_step_with_handed_on_keyframes_has_another_loss_and_trains():
    unet = tiny_unet()
    adapters, c = GenPropAdapters.from_unet(unet), tiny_condition(1)
    g = torch.Generator().manual_seed(2)
    target, mask = torch.randn(1, 4, 4, 8, 8, generator=g), torch.ones(1, 4, 1, 8, 8)
    random, totals = stack([draw(3, target.shape[1:], StepSettings())]), []
    with attach(unet, adapters.config.num_blocks) as taps:
        for handed in (False, True):
            terms = loss_terms(unet, taps, adapters, c, target, mask, random, StepSettings(handed_on=handed))
            totals.append(terms["total"])
    assert not totals[0].isclose(totals[1])
    totals[1].backward()
    assert any(layer.conv.weight.grad is not None for layer in adapters.injections[1:])


def test_in_half_precision_a_handed_on_keyframe_leaves_every_weight_its_gradient():
    """Autocast keeps the weights that it has cast. Those cast while the keyframe is made have no gradient."""
    unet = tiny_unet()
    adapters, c = GenPropAdapters.from_unet(unet), tiny_condition(1)
    for layer in adapters.injections[1:]:
        torch.nn.init.normal_(layer.conv.weight, std=0.05)
    target, mask, trained = torch.randn(1, 4, 4, 8, 8), torch.ones(1, 4, 1, 8, 8), []
    random = stack([draw(3, target.shape[1:], StepSettings())])
    with attach(unet, adapters.config.num_blocks) as taps:
        for handed in (False, True):
            adapters.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                terms = loss_terms(unet, taps, adapters, c, target, mask, random, StepSettings(handed_on=handed))
            terms["total"].backward()
            trained.append({n for n, p in adapters.named_parameters() if p.grad is not None and p.grad.any()})
    assert trained[0] == trained[1] and len(trained[0]) > 20
