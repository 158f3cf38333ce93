"""Learning rate, averages, skipped steps and weights that are put back: what the loop relies on, without a run."""

from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.errors import GenPropError
from trainer.mini.stage import EMA
from trainer.optimisation import MOST_SKIPPED, check_goes_on, learning_rate
from trainer.state_tensors import refresh_masters


def rates(total, warmup):
    args = SimpleNamespace(lr=1.0, warmup_steps=warmup, lr_scheduler="cosine")
    return [learning_rate(step, args, total) for step in range(total)]


@pytest.mark.parametrize("total, warmup, reached", [(94, None, 9), (5000, None, 100), (94, 20, 20), (4, None, 0)])
def test_the_peak_is_reached_in_short_runs_as_well(total, warmup, reached):
    found = rates(total, warmup)
    assert max(found) == pytest.approx(1.0) and found.index(max(found)) in (reached - 1, reached)
    assert found[-1] < 0.01 or total == 4


def test_averages_are_kept_in_full_precision():
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    ema = EMA([parameter], 0.999)
    assert ema.shadow[0].dtype == torch.float32 and ema.shadow[0].data_ptr() != parameter.data_ptr()
    with torch.no_grad():
        parameter.fill_(1.0078125)
    for step in range(100_000, 103_000):
        ema.update(step)
    assert float(ema.shadow[0][0]) == pytest.approx(1.0078125, abs=0.001)
    whole = torch.nn.Parameter(torch.ones(3))
    assert EMA([whole], 0.9).shadow[0].data_ptr() != whole.data_ptr(), "a copy, in fp32 too"


def test_steps_that_are_skipped_for_ever_stop_the_run():
    check_goes_on(MOST_SKIPPED - 1, ["clip1"])
    with pytest.raises(GenPropError, match=r"too large for 50 steps in a row, last with clip1, clip2.*bf16"):
        check_goes_on(MOST_SKIPPED, ["clip1", "clip2"])


def test_deepspeeds_own_weights_are_renewed_after_a_resume_or_it_is_refused():
    called = []
    refresh_masters(SimpleNamespace(refresh_fp32_params=lambda: called.append(True)))
    assert called == [True]
    with pytest.raises(GenPropError, match=r"takes weights in, but SimpleNamespace does not\. Resume with ZeRO"):
        refresh_masters(SimpleNamespace())


@pytest.mark.parametrize("settings", [{}, {"show_source": False}, {"injection_norm": True}])
def test_scaled_adapters_inject_at_strength_1_what_they_did_at_another(settings):
    adapters, given = GenPropAdapters.from_unet(tiny_unet(), **settings), tiny_condition()
    for parameter in adapters.trainable():
        torch.nn.init.normal_(parameter, std=0.1)
    inputs = (given.source, given.keyframe, given.clip, given.micro, given.task)
    frames, level = given.source.shape[1], torch.zeros(1)

    def injected(strength):
        return adapters.gated(adapters.encode(*inputs), level, frames, strength)

    before = injected(0.5)
    adapters.scale(0.5)
    after = injected(1.0)
    assert any(v is not None and v.abs().max() > 0 for v in before)
    for a, b in zip(before, after, strict=True):
        assert a is b is None or torch.allclose(a, b, atol=1e-6)
