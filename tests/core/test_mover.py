"""What moves on its own in a shot, and that the removed thing is followed by it where flow cannot."""

import numpy as np
import pytest
import torch

from genprop_core.frames import as_float
from genprop_core.moving import Moving
from genprop_core.passing import picture_of
from genprop_core.tracking import Tracking

HEIGHT, WIDTH, FRAMES, SIDE, PAN, SPEED = 96, 144, 30, 20, 2, 3  # SPEED: of the thing in the picture, to the right
TOP, LEFT = 40, 16


def shot(wall=None, passer=None, count=FRAMES):
    """(source, target) uint8 [T,3,H,W]: the camera pans over soft colours; a square crosses the picture that looks
    otherwise in every frame, so that no pixel of it can be followed.

    wall: (left, right) in the first frame, something that stands before it. passer: t -> (top, left) of another one.
    """
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.random((3, HEIGHT // 8, (WIDTH + PAN * count) // 8 + 1)).astype(np.float32))
    wide = torch.nn.functional.interpolate(wide[None], scale_factor=8, mode="bicubic")[0].clamp(0, 1)
    if wall is not None:
        wide[:, :, wall[0] : wall[1]] = torch.tensor([0.1, 0.1, 0.5]).view(3, 1, 1)
    target = torch.stack([wide[:, :, PAN * t : PAN * t + WIDTH] for t in range(count)]).clone()
    source = target.clone()
    for t in range(count):
        look = torch.from_numpy(rng.random((3, SIDE // 4, SIDE // 4)).astype(np.float32)).mul(0.5).add(0.5)
        square = look.repeat_interleave(4, 1).repeat_interleave(4, 2)
        source[t][:, place(t)[0], place(t)[1]] = square[:, :, : max(0, WIDTH - place(t)[1].start)]
        if wall is not None:
            before = slice(max(0, wall[0] - PAN * t), max(0, wall[1] - PAN * t))
            source[t][:, :, before] = target[t][:, :, before]
        if passer is not None:
            top, left = passer(t)
            for frames in (source, target):
                frames[t][:, top : top + 12, left : left + 12] = torch.tensor([0.9, 0.8, 0.1]).view(3, 1, 1)
    return (source * 255).byte(), (target * 255).byte()


def place(t):
    return slice(TOP, TOP + SIDE), slice(LEFT + SPEED * t, LEFT + SPEED * t + SIDE)


def moving(source):
    return Moving.of_film(lambda index, part: picture_of(source[index])[part], (HEIGHT, WIDTH), range(len(source)))


def followed(source, target, order):
    """{index: bool [H,W]}: where the square is taken to be."""
    tracking = Tracking(as_float(source[order[0]]), as_float(target[order[0]]), moving(source), order[0])
    found = {order[0]: tracking.thing}
    for index in order[1:]:
        tracking.advance(as_float(source[index]), index)
        found[index] = tracking.thing
    return found


def overlap(found, t, hidden=None):
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[place(t)] = True
    if hidden is not None:
        truth[:, hidden] = False
    return (found & truth).sum() / max(1, (found | truth).sum()), truth


def test_what_moves_has_its_outline_and_what_the_camera_pans_over_does_not():
    source, _ = shot()
    before, at = source.clone(), moving(source)
    for t in (0, 7, FRAMES - 1):
        moves, known, still = at.at(t)
        assert overlap(moves, t)[0] > 0.75 and known.mean() > 0.9 and still.dtype == np.uint8
        assert not moves[:TOP - 4].any() and not moves[TOP + SIDE + 4 :].any()
    assert torch.equal(source, before)


def test_frames_are_followed_as_they_are_asked_for_and_from_any_side():
    source, _ = shot(count=80)
    asked = []

    def picture(index, part):
        asked.append(index)
        return picture_of(source[index])[part]

    late = Moving.of_film(picture, (HEIGHT, WIDTH), range(80))
    last = late.at(79)[0]
    assert min(asked) == 79 - 32, "only those around it"
    early = moving(source)
    early.at(0)
    ways = (m.frames.way(79, 60) for m in (early, late) if m.at(79))
    assert np.allclose(*ways, atol=0.1), "the same place from either side"
    assert (early.at(79)[0] != last).mean() < 0.005


def test_where_half_of_the_frames_show_another_thing_nothing_is_known():
    source = np.zeros((4, 64, 64, 3), np.uint8)
    source[:2, 20:40, 20:40] = 200
    at = Moving.of_film(lambda index, part: source[index][part], (64, 64), range(4))
    moves, known, _ = at.at(0)
    assert not known[20:40, 20:40].any() and known[:18].all() and not moves[:18].any()


@pytest.mark.parametrize("order", [range(FRAMES), range(FRAMES - 1, -1, -1)])
def test_a_thing_that_looks_otherwise_in_every_frame_is_followed(order):
    source, target = shot()
    found = followed(source, target, list(order))
    assert min(overlap(found[t], t)[0] for t in order) > 0.7


def test_it_is_expected_where_it_comes_out_from_behind_something():
    source, target = shot(wall=(70, 100))
    found = followed(source, target, list(range(FRAMES)))
    for t in range(FRAMES):
        share, truth = overlap(found[t], t, slice(max(0, 70 - PAN * t), max(0, 100 - PAN * t)))
        if truth.sum() > SIDE * SIDE / 2:
            assert share > 0.6, f"frame {t}: {share:.2f}"
        assert not found[t][:, max(0, 74 - PAN * t) : max(0, 96 - PAN * t)].any(), "and not what hides it"


def test_another_thing_that_moves_is_none_of_it():
    def passer(t):
        return TOP + 4 + 3 * max(0, 10 - t), LEFT + SPEED * t + SIDE  # comes near and goes along with it

    source, target = shot(passer=passer)
    found = followed(source, target, list(range(FRAMES)))
    for t in range(FRAMES):
        top, left = passer(t)
        own = found[t][top + 2 : top + 10, left + 2 : left + 10]
        assert own.mean() < 0.3, f"frame {t}: {own.mean():.2f} of it"


def test_a_thing_that_stands_still_is_not_lost():
    """It is what most frames show, and so counts as still, but its keyframe says what is behind it."""
    source, target = shot()
    square = source[0][:, place(0)[0], place(0)[1]]
    source = target.clone()
    for t in range(FRAMES):  # it stands in the scene, and the camera pans past it
        left = 80 - PAN * t
        source[t][:, TOP : TOP + SIDE, left : left + SIDE] = square
    found = followed(source, target, list(range(FRAMES)))
    for t in range(FRAMES):
        left = 80 - PAN * t
        assert found[t][TOP : TOP + SIDE, left : left + SIDE].mean() > 0.6, f"frame {t}"


def test_a_thing_keeps_its_size_and_what_is_too_much_is_what_is_farthest_from_it():
    source, target = shot()
    tracking = Tracking(as_float(source[0]), as_float(target[0]), moving(source), 0)
    mover, truth = tracking.mover, np.zeros((HEIGHT, WIDTH), bool)
    truth[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = True
    assert np.array_equal(mover.of_its_size(truth), truth)
    more = truth.copy()
    more[TOP - 2 : TOP + SIDE + 2, LEFT - 1 : LEFT + SIDE + 1] = True  # a little larger: it may have come nearer
    assert np.array_equal(mover.of_its_size(more), more)
    flooded = truth.copy()
    flooded[TOP : TOP + SIDE, LEFT:] = True  # all that is to the right of it
    before, size = flooded.copy(), mover.size
    for _ in range(3):
        found = mover.of_its_size(flooded)
        assert found[truth].all() and found.sum() < 1.7 * truth.sum() and not found[:, LEFT + 2 * SIDE :].any()
        mover.note(found)
    assert np.array_equal(flooded, before)
    grown = mover.size
    assert size < grown < 1.07 * size, "by 2% a frame"
    mover.note(np.zeros_like(truth))
    assert mover.size == grown, "out of sight it does not shrink"
