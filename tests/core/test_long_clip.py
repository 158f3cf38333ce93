"""The long-clip engine with a stand-in for the model whose answers are known: windows, runs, anchors, blends, crops."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_in import SIZE, StandIn, clip, edited, red_mask

from genprop_core.compositing import alpha, composite
from genprop_core.confidence import MARGIN
from genprop_core.errors import GenPropError
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.sampler import unit_noise
from genprop_core.window_model import FrameNoise
from genprop_core.windows import plan_runs, plan_windows

PLAIN = ClipSettings(find_shots=False, colour="off")


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


@pytest.mark.parametrize("count", [2, 3, 8, 9, 20, 33])
def test_every_frame_comes_out_edited(count):
    frames = clip(count)
    result = propagate_clip(StandIn(), frames, {0: edited(frames)}, PLAIN)
    assert result.frames.shape == frames.shape and result.frames.dtype == torch.uint8
    red = red_mask(frames.float() / 255).bool().expand(-1, 3, -1, -1)
    want = torch.where(red, torch.tensor([0, 0, 255]).view(1, 3, 1, 1).expand_as(frames), frames)
    assert (result.frames.int() - want.int()).abs().max() <= 1
    assert result.mask.shape == (count, 1, SIZE, SIZE) and result.confidence.shape == (count,)
    assert all(b - a == min(8, count) - 1 for a, b in result.windows)


def test_one_window_is_what_the_model_made():
    frames, model = clip(8), StandIn(drift=0.01)
    result = propagate_clip(model, frames, edited(frames), ClipSettings(find_shots=True))
    made, _ = StandIn(drift=0.01).run(frames.float() / 255, edited(frames), noise=None)
    assert torch.equal(result.frames, (made * 255).round().byte()) and len(model.calls) == 1
    assert torch.equal(model.calls[0]["noise"], unit_noise((1, 8, 4, 8, 8), 0)) and result.seams == []


def test_inputs_stay_as_they_are():
    frames = clip(12)
    keyframe = edited(frames)
    before = frames.clone(), keyframe.clone()
    propagate_clip(StandIn(), frames, {0: keyframe}, ClipSettings(composite=True, second_pass="black"))
    assert torch.equal(frames, before[0]) and torch.equal(keyframe, before[1])


def test_a_window_starts_from_the_source_outside_the_mask_and_the_edit_inside():
    frames, model = clip(14, moves=0), StandIn(drift=0.02)
    propagate_clip(model, frames, {0: edited(frames)}, PLAIN)
    first, second = model.calls
    start = 6  # a quarter of the window is shared
    assert torch.equal(second["source"], frames[start:].float() / 255)
    made, mask = StandIn(drift=0.02).run(first["source"], first["keyframe"], noise=None)
    mask = torch.nn.functional.interpolate(mask[start:start + 1], (SIZE, SIZE), mode="bilinear")
    outside = (alpha(mask, MARGIN, MARGIN) == 0)[0].expand(3, -1, -1)
    assert 0.2 < outside.float().mean() < 0.9
    assert torch.equal(second["keyframe"][outside], second["source"][0][outside])
    inside = red_mask(second["source"])[0].bool().expand(3, -1, -1)
    assert (second["keyframe"][inside] - made[start][inside]).abs().max() < 1 / 255
    unanchored = StandIn(drift=0.02)
    propagate_clip(unanchored, frames, {0: edited(frames)}, ClipSettings(find_shots=False, anchor=False))
    assert (unanchored.calls[1]["keyframe"][outside] - second["source"][0][outside]).abs().mean() > 0.05


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


def test_a_keyframe_in_the_middle_runs_both_ways():
    frames, model = clip(8, moves=0), StandIn()
    result = propagate_clip(model, frames, {5: edited(frames, 5)}, PLAIN)
    backward, forward = model.calls
    assert torch.equal(backward["source"], frames[:6].flip(0).float() / 255) and len(forward["source"]) == 3
    assert torch.equal(backward["keyframe"], edited(frames, 5))
    assert (result.frames[..., 16:32, 8:24].float().mean((0, 2, 3)) - torch.tensor([0, 0, 255])).abs().max() < 2


def test_between_two_keyframes_each_weighs_by_its_distance():
    frames = clip(21, moves=0)
    keys = {0: edited(frames, 0, (0, 0, 0.0)), 20: edited(frames, 20, (0, 0, 1.0))}
    result = propagate_clip(StandIn(), frames, keys, PLAIN)
    blue = result.frames[:, 2, 16:32, 8:24].float().mean((1, 2)) / 255
    assert blue.tolist() == pytest.approx([t / 20 for t in range(21)], abs=0.01)
    one = propagate_clip(StandIn(), frames, {0: keys[0]}, PLAIN)
    assert one.frames[:, 2, 16:32, 8:24].max() <= 1


def test_a_doubtful_side_weighs_less():
    frames = clip(9, moves=0)
    keys = {0: edited(frames, 0, (0, 0, 0.0)), 8: edited(frames, 8, (0, 0, 1.0))}

    class Doubtful(StandIn):
        def run(self, source, keyframe, **k):
            self.sure = (0.9 if keyframe[2, 20, 12] > 0.5 else 0.6,) * 64
            return super().run(source, keyframe, **k)

    result = propagate_clip(Doubtful(), frames, keys, ClipSettings(window=9, find_shots=False, colour="off"))
    assert result.frames[4, 2, 20, 12] / 255 == pytest.approx(0.9 / (0.9 + 0.6), abs=0.02)


INNER = replace(PLAIN, inner_keyframes=True)


def test_with_one_keyframe_inner_keyframes_change_nothing():
    frames, off, on = clip(20), StandIn(drift=0.01), StandIn(drift=0.01)
    plain = propagate_clip(off, frames, {7: edited(frames, 7)}, PLAIN)
    inner = propagate_clip(on, frames, {7: edited(frames, 7)}, INNER)
    assert torch.equal(plain.frames, inner.frames) and torch.equal(plain.mask, inner.mask) and len(on.calls) > 2
    assert all(torch.equal(a["keyframe"], b["keyframe"]) for a, b in zip(off.calls, on.calls))


def test_inside_a_window_every_frame_is_shown_the_nearest_keyframe():
    frames, model = clip(8, moves=0), StandIn()
    keys = {0: edited(frames, 0, (0, 0, 0.2)), 4: edited(frames, 4, (0, 0, 0.9))}
    propagate_clip(model, frames, keys, INNER)
    forward, backward, last = model.calls
    # of two that are equally near it is the one that the run comes upon first, as in training
    for call, wanted in ((forward, [0, 0, 0, 4, 4, 4, 4, 4]), (backward, [4, 4, 4, 0, 0])):
        assert call["keyframe"].shape == (len(wanted), 3, SIZE, SIZE)
        assert all(torch.equal(shown, keys[key]) for shown, key in zip(call["keyframe"], wanted))
    assert torch.equal(last["keyframe"], keys[4]), "there is no other in this window"
    off = StandIn()
    propagate_clip(off, frames, keys, PLAIN)
    assert [call["keyframe"].ndim for call in off.calls] == [3, 3, 3]


def test_a_later_window_shows_what_was_made_and_the_keyframe_it_reaches():
    frames, model = clip(20, moves=0), StandIn()
    keys = {0: edited(frames, 0, (0, 0, 0.2)), 12: edited(frames, 12, (0, 0, 0.9))}
    result = propagate_clip(model, frames, keys, INNER)
    assert result.windows[:2] == [(0, 7), (6, 13)] and model.calls[0]["keyframe"].ndim == 3
    shown = model.calls[1]["keyframe"]
    assert all(torch.equal(picture, keys[12]) for picture in shown[4:]) and torch.equal(shown[0], shown[3])
    assert (shown[0] - keys[0]).abs()[:, 16:32, 8:24].max() < 0.01 < (shown[0] - keys[12]).abs().max()


def test_a_keyframe_beyond_a_cut_is_shown_to_nobody():
    frames, model = torch.cat([clip(12, moves=0), 255 - clip(6)]), StandIn()
    propagate_clip(model, frames, {9: edited(frames, 9), 13: edited(frames, 9)}, replace(INNER, find_shots=True))
    assert len(model.calls) >= 3 and all(call["keyframe"].ndim == 3 for call in model.calls)


def test_no_window_crosses_a_cut_and_shots_without_a_keyframe_are_told():
    frames = torch.cat([clip(12), 255 - clip(11), clip(13)])
    model = StandIn()
    result = propagate_clip(model, frames, {3: edited(frames, 3), 30: edited(frames, 30)})
    assert result.shots == [(0, 12), (12, 23), (23, 36)] and result.untouched == [(12, 23)]
    assert torch.equal(result.frames[12:23], frames[12:23]) and result.mask[12:23].max() == 0
    assert "frames 12-22 are a shot without a keyframe and stay as they are" in result.notes()[0]
    assert all(not (a < cut <= b or b < cut <= a) for a, b in result.windows for cut in (12, 23))
    told = propagate_clip(StandIn(), frames, {3: edited(frames, 3)}, mask=torch.ones(1, SIZE, SIZE))
    assert told.mask[:12].min() == 255 and told.mask[12:].max() == 0, "nothing is replaced where nothing is made"
    whole = propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(find_shots=False))
    assert whole.shots == [(0, 36)] and whole.untouched == []


def test_a_shot_of_one_frame_is_made_too():
    frames = torch.cat([clip(12), 255 - clip(8)])
    from genprop_core.long_clip import checked, make

    view, keys, _ = checked(StandIn(), frames, {19: edited(frames, 0)}, PLAIN)
    made = make(StandIn(), view, keys, [(0, 19), (19, 20)], PLAIN)
    assert torch.equal(made.frames[:19], frames[:19]) and made.windows == [(19, 19)]


def test_compositing_keeps_every_pixel_outside():
    frames = clip(20)
    settings = ClipSettings(composite=True, grow=2, feather=3)
    result = propagate_clip(StandIn(drift=0.02), frames, {0: edited(frames)}, settings)
    outside = (alpha(result.mask, 2, 3) == 0).expand(-1, 3, -1, -1)
    assert 0.3 < outside.float().mean() < 0.99 and torch.equal(result.frames[outside], frames[outside])
    assert not torch.equal(result.frames, frames)


def test_a_mask_of_the_users_replaces_or_joins():
    frames = clip(10, moves=0)
    corner = torch.zeros(1, SIZE, SIZE)
    corner[:, 48:, 48:] = 1
    both, own = (
        propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(mask_mode=mode), corner).mask
        for mode in ("join", "replace")
    )
    assert own[:, :, 20, 12].max() == 0 and both[:, :, 20, 12].min() > 200
    assert own[:, :, 60, 60].min() == both[:, :, 60, 60].min() == 255


@pytest.mark.parametrize("how", ["black", "blur"])
def test_the_second_pass_hides_the_region(how):
    frames, model = clip(8, moves=0), StandIn(sure=(1.0,) * 64)
    propagate_clip(model, frames, {0: edited(frames)}, ClipSettings(second_pass=how))
    first, second = model.calls
    assert torch.equal(first["noise"], second["noise"]) and torch.equal(first["keyframe"], second["keyframe"])
    assert red_mask(first["source"]).sum() == 8 * 256 and red_mask(second["source"]).sum() < 8 * 64
    assert torch.equal(second["source"][..., 48:, 48:], first["source"][..., 48:, 48:])


def test_a_small_edit_is_worked_on_up_close():
    frames = clip(10, 256, 256, moves=0)
    model = StandIn()
    settings = ClipSettings(crop="auto", composite=True, size=(128, 128))
    result = propagate_clip(model, frames, {0: edited(frames)}, settings)
    top, left = result.region.corners[0]
    height, width = result.region.size
    assert height < 160 and top <= 16 and left <= 8 and result.generated.shape[-2:] == (128, 128)
    assert torch.equal(result.frames[..., top + height :, :], frames[..., top + height :, :])
    assert (result.frames[:, :, 24, 16].float() - torch.tensor([0, 0, 255.0])).abs().max() < 40
    assert result.mask[:, :, 24, 16].min() > 128 and result.mask[..., top + height :, :].max() == 0
    own = torch.zeros(1, 128, 128)  # half the frame's size
    own[:, 4:18, 0:16] = 1
    told, given = propagate_clip(model, frames, {0: edited(frames)}, settings, own), 2 * len(result.windows)
    assert len(model.calls) == given + len(told.windows)  # no first pass: the mask says where the edit is
    assert told.region is not None and told.mask[:, :, 24, 16].min() == 255 and told.mask[..., 60:, :].max() == 0
    large = propagate_clip(StandIn(), clip(10), {0: edited(clip(10), colour=(1, 1, 1))}, ClipSettings(crop="auto"))
    assert large.frames.shape == (10, 3, SIZE, SIZE)


def test_any_size_comes_back_at_its_own():
    frames = clip(9, 75, 101)
    result = propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(composite=True))
    assert result.frames.shape == frames.shape and result.generated.shape[-2:] == (96, 128)
    outside = (alpha(result.mask) == 0).expand(-1, 3, -1, -1)
    assert torch.equal(result.frames[outside], frames[outside])


def test_the_mask_follows_the_picture_where_asked():
    frames = clip(9, 100, 96, moves=1)
    true = red_mask(frames.float() / 255)[:, 0] > 0.5

    def overlap(refine):
        result = propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(refine=refine))
        mask = result.mask[:, 0] > 127
        return (mask & true).sum() / (mask | true).sum()

    assert overlap(True) > 0.9 > overlap(False) + 0.02


def test_doubtful_frames_are_listed():
    frames = clip(8, moves=0)
    result = propagate_clip(StandIn(sure=[0.9, 0.9, 0.9, 0.3, 0.3, 0.3, 0.9, 0.9]), frames, {0: edited(frames)})
    assert result.confidence[[0, 1, 2, 6, 7]].tolist() == pytest.approx([0.9] * 5, abs=0.02)
    assert result.confidence[3:6].max() < 0.5  # no mask, and yet something changed
    assert result.doubtful == [(3, 5)] and result.notes() == ["frames 3-5: re-edit here"]
    drifting = propagate_clip(StandIn(drift=0.02), frames, {0: edited(frames)})
    assert drifting.doubtful and drifting.doubtful[-1][1] == 7 and drifting.confidence[0] > 0.85
    assert drifting.notes() == [f"frames {drifting.doubtful[0][0]}-7: re-edit here"]


MEMORY = """
import resource, sys
from collections import deque
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from stand_in import StandIn, edited
from genprop_core.long_clip import ClipSettings, propagate_clip

def source(count):
    frames = torch.full((count, 3, 256, 256), 90, dtype=torch.uint8)
    frames[:, :, 40:90, 40:90] = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    return frames

def peak(count):
    frames, model = source(count), StandIn()
    model.calls = deque(maxlen=1)
    propagate_clip(model, frames, {{0: edited(frames)}}, ClipSettings(composite=True, find_shots=False))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

peak(20)
three = peak(20)
print(three - 20 * {each}, peak(200) - 200 * {each}, peak(400) - 400 * {each})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_beside_the_frames_does_not_grow_with_the_clip():
    each = 256 * 256 * (3 + 3 + 3 + 1)  # source, what was made, result and mask, all bytes
    root = Path(__file__).resolve().parents[2]
    code = MEMORY.format(root=str(root), tests=str(root / "tests"), each=each)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    three, two_hundred, four_hundred = (int(v) for v in done.stdout.split())
    assert two_hundred < 1.1 * three and four_hundred < 1.1 * three, (done.stdout, done.stderr[-500:])


def test_the_number_of_windows_grows_with_the_frames():
    counts = [len(propagate_clip(StandIn(), frames, {0: edited(frames)}, PLAIN).windows)
              for frames in (clip(200), clip(400))]  # fmt: skip
    assert counts[1] / counts[0] == pytest.approx(2, abs=0.1)


def test_progress_counts_up_to_its_total():
    frames, seen = clip(33), []
    propagate_clip(StandIn(), frames, {4: edited(frames, 4), 30: edited(frames, 30)}, ClipSettings(second_pass="black"),
                   progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert [d for d, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1][0] == seen[-1][1]
    assert all(d <= t for d, t in seen)
    seen.clear()  # windows that continue from a later frame are fewer
    model = StandIn(sure=[0.9] * 6 + [0.5] + [0.9])
    propagate_clip(model, frames, {0: edited(frames)}, PLAIN, progress=lambda done, total: seen.append((done, total)))
    assert [d for d, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("small", [True, False])
def test_progress_ends_at_its_total_whether_or_not_there_is_a_region(small):
    frames, seen = clip(20, 256, 256, moves=0), []

    class SureOfAll(StandIn):
        """Its mask is the whole frame, so that what seemed a small edit turns out to be a large one."""

        def run(self, source, keyframe, **given):
            made, mask = super().run(source, keyframe, **given)
            return made, mask if small else torch.ones_like(mask)

    settings = ClipSettings(crop="auto", size=(128, 128), find_shots=False)
    result = propagate_clip(SureOfAll(), frames, {0: edited(frames)}, settings,
                            progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert (result.region is not None) == small, "both ways begin with a first pass over the whole frames"
    steps = 2 * len(result.windows)
    assert seen[:steps] == [(done, 2 * steps) for done in range(1, steps + 1)]
    if small:
        assert seen[steps:] == [(done, 2 * steps) for done in range(steps + 1, 2 * steps + 1)]
    else:
        assert seen[steps:] == [(steps, steps)]


def test_a_model_without_a_mask_still_carries_on():
    frames = clip(20)
    result = propagate_clip(StandIn(mask=False), frames, {0: edited(frames)}, ClipSettings(composite=True))
    assert result.mask is None and result.frames.shape == frames.shape


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"keyframes": {20: "edit"}}, "indices from 0 to 19 for this clip, got 20"),
        ({"keyframes": {-1: "edit"}}, "indices from 0 to 19 for this clip, got -1"),
        ({"keyframes": [(3, "edit"), (3, "edit")]}, "one keyframe for frame 3, got two"),
        ({"keyframes": {}}, "at least one keyframe, got none"),
        ({"keyframes": {0: "edit", 5: "small"}}, "keyframes of one size, got 64x64 for frame 0, 32x32 for frame 5"),
        ({"keyframes": {0: "wide"}}, r"aspect ratio \(64x64\), got 128x64"),
        ({"mask": torch.zeros(7, SIZE, SIZE)}, "The mask has 7 frames, the video 20. Give one mask, or 20"),
        ({"mask": torch.zeros(20, 3, SIZE, SIZE)}, "mask .* got .*20, 3"),
        ({"settings": ClipSettings(window=1)}, "at least 2 frames, got 1"),
        ({"settings": ClipSettings(overlap=8)}, "overlap from 1 to 7"),
        ({"settings": ClipSettings(mask_mode="add")}, "replace, join as mask_mode, got 'add'"),
        ({"settings": ClipSettings(second_pass="white")}, "off, black, blur as second_pass, got 'white'"),
        ({"settings": ClipSettings(size=(60, 64))}, "multiples of 32 for this base, got 64x60"),
        ({"settings": ClipSettings(grow=-1)}, "grow and feather of at least 0"),
        ({"frames": torch.zeros(1, 3, SIZE, SIZE)}, "at least 2 frames"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_sampling(changes, wanted):
    frames = clip()
    pictures = {"edit": edited(frames), "small": torch.rand(3, 32, 32), "wide": torch.rand(3, 64, 128)}
    given = {"frames": frames, "keyframes": {0: "edit"}, "settings": None, "mask": None, **changes}
    pairs = given["keyframes"].items() if isinstance(given["keyframes"], dict) else given["keyframes"]
    keyframes, model = [(index, pictures[name]) for index, name in pairs], StandIn()
    with pytest.raises(GenPropError, match=wanted) as error:
        propagate_clip(model, given["frames"], keyframes, given["settings"], given["mask"])
    assert model.calls == [] and "\n" not in str(error.value)


def test_the_composite_is_the_one_formula():
    frames = clip(8)
    plain, kept = (
        propagate_clip(StandIn(drift=0.01), frames, {0: edited(frames)}, ClipSettings(composite=on))
        for on in (False, True)
    )
    assert torch.equal(composite(frames, plain.frames, plain.mask), kept.frames)
