"""Windows, runs and noise of a long clip, and the seams between its windows."""

import pytest
import torch
from stand_in import StandIn, clip, edited, red_mask

from genprop_core.errors import GenPropError
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.made import Made
from genprop_core.sampler import unit_noise
from genprop_core.window_chain import pixel_share
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


def test_between_two_keyframes_both_sides_have_the_colours_of_the_source():
    frames = clip(16, moves=0)
    keys = {0: edited(frames), 15: edited(frames, 15)}
    drifted, matched = (
        propagate_clip(StandIn(drift=0.01), frames, keys, ClipSettings(
            find_shots=False, colour=kind)).change_outside for kind in ("off", "offset")
    )  # fmt: skip
    assert (matched[2:14] < drifted[2:14]).all() and matched[2:14].mean() < 0.5 * drifted[2:14].mean()


def test_what_only_one_side_knows_is_taken_from_it():
    there, mine = torch.tensor([[[0.0, 1, 0, 1]]]), torch.tensor([[[0.0, 0, 1, 1]]])
    assert pixel_share(0.5, there, mine)[0, 0].tolist() == pytest.approx([0.5, 0.5 / 16, 1 - 0.5 / 16, 0.5])
    assert pixel_share(1.0, there, mine).tolist() == [[[1.0] * 4]]  # a keyframe is the truth
    assert torch.allclose(pixel_share(0.3, there, mine), 1 - pixel_share(0.7, mine, there))


def test_a_frame_can_be_blended_pixel_by_pixel():
    made = Made.empty(2, 8, 8)
    share = torch.zeros(1, 8, 8)
    share[..., 4:] = 1
    made.put(1, 0.5, torch.ones(3, 8, 8), 1.0, 0.0, 1.0, 2.0, share)
    assert (made.frames[1, :, :, :4] == 0).all() and (made.frames[1, :, :, 4:] == 255).all()
    assert (made.mask[1] == 0.5).all() and made.confidence[1] == 0.5 and (made.frames[0] == 0).all()


def test_guidance_is_for_windows_that_start_from_a_keyframe():
    frames, keys = clip(26), {5: edited(clip(26), 5)}
    for later, wanted in ((False, [True, True, False, False]), (True, [True] * 4)):
        model = StandIn()
        propagate_clip(model, frames, keys, ClipSettings(find_shots=False, guide_later=later))
        assert [call["guided"] for call in model.calls][:4] == wanted


@pytest.mark.parametrize("hidden, start", [((6,), 7), ((7,), 6), ((6, 7), 5), ((2, 3, 4, 5, 6, 7), 1)])
@pytest.mark.parametrize("given", ["nothing", "every frame's", "one for all", "one, joined"])
def test_no_window_starts_where_the_removed_thing_is_hidden(hidden, start, given):
    """Nothing is made there, so that frame is the source's own, and looks as if there were no edit.

    One mask for all frames only says where to look, so it cannot say where the thing is hidden.
    """
    frames = clip(15)
    shown = red_mask(frames.float() / 255)
    for index in hidden:
        frames[index] = torch.where(shown[index].bool(), 99, frames[index])
    masks = red_mask(frames.float() / 255)
    mask = {"nothing": None, "every frame's": masks}.get(given, masks.amax(0, keepdim=True))
    settings = ClipSettings(find_shots=False, colour="off", mask_mode="join" if given == "one, joined" else "replace")
    model = StandIn()
    result = propagate_clip(model, frames, {0: edited(frames)}, settings, mask)
    second = model.calls[1]
    assert torch.equal(second["source"][0], frames[start] / 255)
    assert (second["keyframe"] - second["source"][0]).abs().max() > 0.5
    for index in range(15):
        red = red_mask(result.frames[index : index + 1].float() / 255)
        assert not red.any(), f"it comes back in frame {index}"


@pytest.mark.parametrize("count, hidden, windows", [
    (11, (3,), [(0, 7), (2, 9), (8, 10)]), (15, (7,), [(0, 7), (6, 13), (12, 14)]),
    (15, (6, 7), [(0, 7), (5, 12), (11, 14)]), (20, (12,), [(0, 7), (6, 13), (11, 18), (17, 19)]),
    (11, (), [(0, 7), (3, 10)])])  # fmt: skip
def test_a_last_window_does_not_start_there_either(count, hidden, windows):
    """It is moved back to be full; where it would start at a hidden frame then, it is a shorter one."""
    frames = clip(count)
    shown = red_mask(frames.float() / 255)
    for index in hidden:
        frames[index] = torch.where(shown[index].bool(), 99, frames[index])
    model = StandIn()
    result = propagate_clip(model, frames, {0: edited(frames)}, ClipSettings(find_shots=False, colour="off"))
    assert result.windows == windows
    assert not red_mask(result.frames.float() / 255).any()
    for call in model.calls:
        assert (call["keyframe"] - call["source"][0]).abs().max() > 0.5


def test_what_is_hidden_for_longer_leaves_the_overlap_as_it_is():
    frames = clip(20)
    shown = red_mask(frames.float() / 255)
    frames[1:] = torch.where(shown[1:].bool(), 99, frames[1:])
    model = StandIn()
    result = propagate_clip(model, frames, {0: edited(frames)}, ClipSettings(find_shots=False, colour="off"))
    assert [a for a, _ in result.windows] == [0, 6, 12]


@pytest.mark.parametrize("what, second_pass", [("frames", "off"), ("mask", "off"), ("frames", "black")])
def test_a_model_that_makes_no_numbers_is_told(what, second_pass):
    class Overflowing(StandIn):
        def run(self, source, keyframe, **given):
            made = dict(zip(("frames", "mask"), super().run(source, keyframe, **given)))
            if len(self.calls) == (1 if second_pass == "off" else 2):
                made[what][2, 0, 1, 1] = torch.nan
            return made["frames"], made["mask"]

    frames = clip(20)
    with pytest.raises(GenPropError, match=r"frames 0-7 came out as no numbers \(NaN\)\. Run it in bf16 or fp32"):
        propagate_clip(Overflowing(), frames, {0: edited(frames)}, ClipSettings(second_pass=second_pass))
