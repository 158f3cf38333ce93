"""The long-clip engine with a stand-in for the model whose answers are known: keyframes, shots, cost."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_in import SIZE, StandIn, clip, edited, red_mask

from genprop_core.compositing import alpha
from genprop_core.confidence import MARGIN
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.sampler import unit_noise

PLAIN = ClipSettings(find_shots=False, colour="off")


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


MEMORY = """
import sys
from collections import deque
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from benchmarks.common import peak_memory
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
    return peak_memory()

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
    looking, seen = seen[:33], seen[33:]
    assert looking == [(0, 1)] * 33, "for cuts, frame by frame"
    assert [d for d, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1][0] == seen[-1][1]
    assert all(d <= t for d, t in seen)
    seen.clear()  # windows that continue from a later frame are fewer
    model = StandIn(sure=[0.9] * 6 + [0.5] + [0.9])
    propagate_clip(model, frames, {0: edited(frames)}, PLAIN, progress=lambda done, total: seen.append((done, total)))
    assert [d for d, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("plate", [False, True])
def test_what_comes_after_sampling_is_counted_apart(plate):
    frames, seen, settings, model = clip(20), [], replace(PLAIN, clean_plate=plate), StandIn()
    model.removes = True
    counts = [lambda *at, kind=kind: seen.append((kind, *at)) for kind in ("sampling", "finishing")]
    given = {0: edited(frames)}
    propagate_clip(model, frames, given, settings, None, *counts)
    total = len(frames) * (4 if plate else 1)
    first = [kind for kind, *_ in seen].index("finishing")
    assert seen[first - 1][1] == seen[first - 1][2] and all(kind == "sampling" for kind, *_ in seen[:first])
    assert seen[first:] == [("finishing", done, total) for done in range(total + 1)]
    for stop in (1, total - 1):

        def cancel(done, _, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            propagate_clip(model, frames, given, settings, finishing=cancel)


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
