"""Windows, runs and noise of a long clip, and the seams between its windows."""

import pytest
import torch
from stand_in import StandIn, clip, edited, red_mask

from genprop_core.errors import GenPropError
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.sampler import unit_noise
from genprop_core.window_model import FrameNoise
from genprop_core.windows import plan_runs, plan_windows


def test_windows_cover_the_clip_and_are_full():
    assert plan_windows(20, 8) == [(0, 8, 0), (7, 15, 8), (12, 20, 15)]
    assert plan_windows(20, 8, 2) == [(0, 8, 0), (6, 14, 8), (12, 20, 14)]
    assert plan_windows(5, 8, 2) == [(0, 5, 0)] and plan_windows(9, 8, 3) == [(0, 8, 0), (1, 9, 8)]
    for count in range(2, 60):
        for overlap in (1, 2, 5):
            plan = plan_windows(count, 8, overlap)
            assert sorted(set(f for a, b, _ in plan for f in range(a, b))) == list(range(count))
            assert all(b - a == min(8, count) for a, b, _ in plan)
    with pytest.raises(GenPropError, match="overlap from 1 to 7 frames for a window of 8, got 8"):
        plan_windows(20, 8, 8)


def test_runs_go_out_from_every_keyframe():
    runs = plan_runs(10, 20, [12, 16])
    assert [(r.order[0], r.order[r.need - 1], r.blend) for r in runs] == [
        (12, 10, False), (12, 16, False), (16, 12, True), (16, 19, False)]  # fmt: skip
    assert all(10 <= f < 20 for r in runs for f in r.order)
    assert plan_runs(3, 9, []) == [] and plan_runs(4, 5, [4])[0].order == (4, 4)


def test_noise_belongs_to_the_frame():
    noise = FrameNoise(7, 8, 8, 8)
    assert torch.equal(noise(range(8)), unit_noise((1, 8, 4, 8, 8), 7))
    late = noise([6, 7, 8, 9])
    assert torch.equal(late[:, :2], unit_noise((1, 8, 4, 8, 8), 7)[:, 6:])
    assert torch.equal(noise([9, 8])[:, 1], late[:, 2]) and not torch.equal(late[:, 2], late[:, 0])
    again = noise(range(5))  # a shorter clip's noise is the beginning of a longer one's
    assert torch.equal(again, FrameNoise(7, 8, 8, 5)(range(5)))
    assert not torch.equal(FrameNoise(8, 8, 8, 8)(range(8)), noise(range(8, 16)))


def test_a_window_continues_from_the_frame_to_be_trusted_most():
    frames = clip(30, moves=0)
    sure = [0.9] * 8
    sure[5] = 0.55  # the earliest of the overlap is doubtful, so the one after it is taken
    model = StandIn(sure=sure)
    propagate_clip(model, frames, {0: edited(frames)}, ClipSettings(window=8, overlap=3, find_shots=False))
    assert torch.equal(model.calls[1]["source"], frames[6:14].float() / 255)


def test_overlaps_are_faded_into_each_other():
    frames = clip(12, moves=0)
    outside = (~red_mask(frames.float() / 255).bool()).expand(-1, 3, -1, -1)
    result = propagate_clip(StandIn(drift=0.05), frames, {0: edited(frames)}, ClipSettings(
        window=8, overlap=4, find_shots=False, colour="off"))  # fmt: skip
    lift = ((result.frames.float() - frames.float()) * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3)) / 255
    # the old window falls from 4 to 7 steps of drift, the new one rises from 0: their mix runs between them
    assert lift[:5] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2], abs=0.01)
    assert lift[5] == pytest.approx(0.75 * 0.25 + 0.25 * 0.05, abs=0.01) and lift[8] == pytest.approx(0.2, abs=0.01)
    assert result.seams == [5, 6, 7, 8]


def test_colour_drift_is_taken_off_after_the_first_window():
    frames = clip(40, moves=0)
    drifted, matched = (
        propagate_clip(StandIn(drift=0.01), frames, {0: edited(frames)}, ClipSettings(
            find_shots=False, colour=kind)).change_outside for kind in ("off", "offset")
    )  # fmt: skip
    assert matched[8:].mean() < 0.7 * drifted[8:].mean() and torch.equal(matched[:6], drifted[:6])


def test_guidance_is_for_windows_that_start_from_a_keyframe():
    frames, keys = clip(26), {5: edited(clip(26), 5)}
    for later, wanted in ((False, [True, True, False, False]), (True, [True] * 4)):
        model = StandIn()
        propagate_clip(model, frames, keys, ClipSettings(find_shots=False, guide_later=later))
        assert [call["guided"] for call in model.calls][:4] == wanted
