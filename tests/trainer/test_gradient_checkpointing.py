"""Checkpointing resnets and attention: fewer saved bytes, the same gradients, hooks in place."""

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from trainer import gradient_checkpointing
from trainer.memory import saved_bytes
from trainer.step import StepSettings, draw, loss_terms, stack

FRAMES = 16


def step(unet, adapters, condition, target, mask):
    """Saved bytes and gradients of one step."""
    random = stack([draw(0, target.shape[1:], StepSettings(cond_dropout=0.0))])
    adapters.zero_grad()
    with attach(unet, adapters.config.num_blocks) as taps:
        with saved_bytes(unet, adapters) as counter:
            loss = loss_terms(unet, taps, adapters, condition, target, mask, random, StepSettings())["total"]
        loss.backward()
    return counter.bytes, {n: p.grad.clone() for n, p in adapters.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_a_step_of_16_frames_saves_less_with_equal_gradients(sce):
    unet = tiny_unet()
    torch.manual_seed(1)
    adapters = GenPropAdapters.from_unet(unet, sce=sce)
    with torch.no_grad():
        for layer in adapters.injections[1:]:  # the first is the shown source's place
            layer.conv.weight.normal_(std=0.05)
    condition = tiny_condition(frames=FRAMES)
    g = torch.Generator().manual_seed(0)
    target = torch.randn(condition.source.shape, generator=g)
    mask = (torch.rand(1, FRAMES, 1, 8, 8, generator=g) > 0.7).float()
    plain, expected = step(unet, adapters, condition, target, mask)
    parts = gradient_checkpointing.enable(unet, adapters.sce)
    assert {type(p).__name__ for p in parts} == set(gradient_checkpointing.KINDS)
    less, gradients = step(unet, adapters, condition, target, mask)
    gradient_checkpointing.disable(parts)
    assert less <= 0.7 * plain
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, msg=name)
    again, _ = step(unet, adapters, condition, target, mask)
    assert again == plain
