"""The backdrop: where most frames agree, what moves before it, and what of it is behind a removed thing."""

import gc
import weakref

import cv2
import numpy as np
import pytest
from panning_scene import FRAMES, PAN, SIZE, THING, edit, scene
from soft_waves import waves

from genprop_core.backdrop import Backdrop
from genprop_core.behind import box_of
from genprop_core.frames import as_bytes

EDIT = edit().numpy()
PART = box_of(EDIT)
RED = (230, 26, 26)


def pictures(clip):
    """[T,3,H,W] in [0,1] -> list of uint8 [H,W,3]."""
    return list(as_bytes(clip).movedim(1, -1).numpy())


def backdrop_of(frames, where=EDIT, **more):
    size = frames[0].shape[:2]
    return Backdrop(lambda i, part: frames[i][part], lambda i: where, size, range(len(frames)), **more)


def pan(x, y, count):
    """(source, target), lists of uint8 [H,W,3], of a camera that moves x and y pixels a frame, in fractions."""
    wide = waves(SIZE + count, SIZE + count, grey=True)
    target = []
    for t in range(count):
        shift = np.array([[1, 0, x * t], [0, 1, y * t]])
        target.append(cv2.warpAffine(wide, shift, (SIZE, SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
    source = [frame.copy() for frame in target]
    for frame in source:
        frame[THING] = RED
    return source, target


@pytest.mark.parametrize("x, y, count", [(0.4, 0.3, 41), (0.7, 0.6, 31), (1.3, 0.7, 21)])
def test_what_is_known_is_what_was_in_sight(x, y, count):
    source, target = pan(x, y, count)
    plate, known = backdrop_of(source).behind(count - 1, EDIT, PART)
    rows, columns = np.mgrid[PART]
    far = x * (count - 1), y * (count - 1)
    beyond = np.maximum(columns + far[0] - PART[1].stop, rows + far[1] - PART[0].stop)
    assert not known[beyond < -2].any(), "nothing is known that never was in sight"
    assert known[beyond > 2].mean() > 0.95
    error = np.abs(plate - target[-1][PART])[known]
    assert error.max() < 6, "none of the red thing is in it"


def test_places_seen_early_and_late_are_known_in_the_middle():
    source, target = (pictures(clip) for clip in scene())
    plate, known = backdrop_of(source).behind(FRAMES // 2, EDIT, PART)
    assert known[:, :10].all() and known[:, -10:].all(), "seen at the end, and at the beginning"
    assert np.abs(plate - target[FRAMES // 2][PART])[known].max() < 4


def test_what_passes_by_is_no_backdrop():
    """Something dark comes from the right, and for a while covers what is to be seen behind the thing later."""
    source, target = (pictures(clip) for clip in scene())
    for t, frame in enumerate(source):
        frame[45:70, max(0, 124 - 8 * t - 12) : 124 - 8 * t] = 25
        frame[THING] = RED
    backdrop = backdrop_of(source)
    for t in (1, 2):
        moving = backdrop.moving[t] > 0
        assert moving[45:70, 124 - 8 * t - 12 : 124 - 8 * t].all() and moving.mean() < 0.12
    for t in range(FRAMES):
        plate, known = backdrop.behind(t, EDIT, PART)
        assert known.any() and np.abs(plate - target[t][PART])[known].max() < 6, t
    near = (slice(50, 66), slice(88, 92))
    assert backdrop.behind(7, EDIT, near)[1].mean() > 0.5
    assert not backdrop.behind(3, EDIT, near)[1].any(), "next to it something of it may be hidden"


def test_one_frame_that_shows_something_else_is_outvoted():
    """Next to the thing, so that the frame is the nearest of those that show what is behind it a frame earlier."""
    source, target = (pictures(clip) for clip in scene())
    source[6][40:80, 24:36] = 250
    backdrop = backdrop_of(source)
    for index in backdrop.moving:  # as if it had not been seen to move
        backdrop.moving[index][:] = 0
        backdrop.frames.clear[index] = np.where(EDIT, 0, 255).astype(np.uint8)
    plate, known = backdrop.behind(5, EDIT, PART)
    light = (slice(45, 75), slice(37, 38))
    rows, columns = (slice(s.start - p.start, s.stop - p.start) for s, p in zip(light, PART))
    assert known[rows, columns].all() and np.abs(plate - target[5][PART])[rows, columns].max() < 6


def test_what_the_camera_left_behind_is_of_another_run():
    """After five frames there is something altogether different: no motion leads there."""
    source, _ = (pictures(clip) for clip in scene())
    other = np.ascontiguousarray(waves(SIZE, SIZE + PAN * FRAMES, seed=9)[::-1])
    for t in range(5, FRAMES):
        source[t] = other[:, PAN * t : PAN * t + SIZE].copy()
        source[t][THING] = RED
    frames = backdrop_of(source).frames
    assert [frames.places[t][0] for t in (0, 4, 5, 13)] == [0, 0, 1, 1]
    assert frames.way(4, 5) is None and frames.way(5, 6) is not None
    assert all(other >= 5 for _, other in frames.others(7, range(1, 14)))


def test_a_keyframe_shows_what_no_frame_does_and_is_told_when_it_is_wrong():
    source, target = (pictures(clip) for clip in scene())
    inside = edit(0).numpy()
    for keyframe, wrong in ((target[0], False), (np.full_like(target[0], 40), True)):
        backdrop = backdrop_of(source)
        before = backdrop.behind(0, EDIT, PART)[1]
        assert backdrop.take(0, keyframe, EDIT, inside) == wrong
        plate, known = backdrop.behind(0, EDIT, PART)
        assert known.sum() > before.sum() or wrong
        assert (known & before).sum() == before.sum(), "the film comes first"
        assert np.abs(plate - target[0][PART])[before].max() < 4
    assert known[:, 40:].any() and np.abs(plate - 40)[known & ~before].max() < 1, "where the film says nothing"


def test_large_frames_give_what_small_ones_do():
    source, target = (pictures(clip) for clip in scene())
    source, target = (
        [cv2.resize(f, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for f in c] for c in (source, target)
    )
    where = np.kron(EDIT, np.ones((3, 3), bool))
    part = box_of(where)
    plate, known = backdrop_of(source, where, scale=3.0).behind(7, where, part)
    assert known.mean() > 0.6 and np.abs(plate - target[7][part])[known].mean() < 1.5


def test_it_stops_when_it_is_told_to():
    source, _ = (pictures(clip) for clip in scene())
    steps = []
    backdrop_of(source, step=lambda: steps.append(1))
    assert len(steps) == 2 * FRAMES

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        backdrop_of(source, step=stop)


def test_the_frames_are_let_go_with_it():
    """Not when Python next looks for what refers to itself: they may be all the memory there is."""
    source, _ = (pictures(clip) for clip in scene())

    class Film:
        def part(self, index, part):
            return source[index][part]

    film = Film()
    backdrop = Backdrop(film.part, lambda index: EDIT, (SIZE, SIZE), range(4))
    held = weakref.ref(film)
    gc.disable()
    try:
        del film, backdrop
        assert held() is None
    finally:
        gc.enable()
