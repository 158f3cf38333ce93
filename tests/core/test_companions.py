"""What moves beside the removed thing and goes behind it: how it moves, what is hidden of it, and where it is put."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from panning_scene import FRAMES, GUESS, SIZE, THING, Guessing, edit, scene

from genprop_core.beside import Beside
from genprop_core.clip_input import View
from genprop_core.companions import LEAST, Companion, Companions
from genprop_core.fit import plan_fit
from genprop_core.frames import as_bytes, as_float
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.moving import Moving
from genprop_core.own_motion import own_motion
from genprop_core.passing import picture_of
from genprop_core.tracking import Tracking

PLAIN = ClipSettings(find_shots=False, colour="off")
COLOURS = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.8]]).view(2, 3, 1, 1)


def draw(frame, x, y, angle, side=26):
    """A square of two colours into a frame [3,H,W], in place. Returns where, bool [H,W]."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in frame.shape[-2:]), indexing="ij")
    along = math.cos(angle) * (columns - x) + math.sin(angle) * (rows - y)
    across = -math.sin(angle) * (columns - x) + math.cos(angle) * (rows - y)
    cover = torch.sigmoid(4 * (side / 2 - torch.maximum(along.abs(), across.abs())))
    colour = torch.lerp(COLOURS[1], COLOURS[0], torch.sigmoid(4 * along)[None])
    frame.copy_(torch.lerp(frame, colour, cover))
    return cover > 0.5


def crossing(turn=0.08, speed=5.0, y=38.0, changes=None, x=24.0, shadow=False):
    """(source, target, where the square is [T,H,W]): it turns and goes to the right, in part behind the red thing.

    changes: the frame from which on it has another colour; the truth has it as well. x: where it begins. shadow:
    whether it casts one.
    """
    _, target = scene()
    if shadow:
        lit = [draw(torch.zeros(3, SIZE, SIZE), x + 6 + speed * t, y + 7, turn * t) for t in range(FRAMES)]
        target *= 1 - 0.5 * torch.stack(lit)[:, None]
    squares = torch.stack([draw(f, x + speed * t, y, turn * t) for t, f in enumerate(target)])
    if changes is not None:
        for frame, square in zip(target[changes:], squares[changes:]):
            frame[:, square] = torch.tensor([0.95, 0.95, 0.95])[:, None]
    target = as_float(as_bytes(target))
    source = target.clone()
    source[:, :, THING[0], THING[1]] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    return source, target, squares


HIDDEN = edit(0)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("half", [False, True])
def test_shift_and_turn_are_found_by_what_is_in_sight(scale, half):
    before, now = (torch.full((3, SIZE * scale, SIZE * scale), 0.4) for _ in range(2))
    draw(before, 50 * scale, 60 * scale, 0.3, 26 * scale)
    where = draw(now, 53.5 * scale, 58 * scale, 0.42, 26 * scale)
    if half:
        where[:, 54 * scale :] = False
    kept = [picture_of(f).copy() for f in (before, now)]
    grown = np.pad(where.numpy(), 3)  # with a rim, as its outline tells most
    grown = np.any([np.roll(grown, at, (0, 1)) for at in [(-3, 0), (3, 0), (0, -3), (0, 3)]], 0)[3:-3, 3:-3]
    pictures = [picture_of(f) for f in (before, now)]
    motion = own_motion(*pictures, grown, np.eye(3)[:2], known=False)
    assert all((a == b).all() for a, b in zip(kept, pictures))
    np.testing.assert_allclose(motion @ [53.5 * scale, 58 * scale, 1], [50 * scale, 60 * scale], atol=0.4 * scale)
    turn = math.atan2(motion[1, 0], motion[0, 0])
    assert abs(turn + 0.12) < 0.02 and abs(np.linalg.det(motion[:, :2]) - 1) < 0.05


def test_with_little_in_sight_it_goes_on_as_expected():
    """A strip of one colour tells nothing of a turn."""
    now = torch.full((3, SIZE, SIZE), 0.4)
    strip = np.zeros((SIZE, SIZE), bool)
    strip[50:70, 40:46] = True
    guess = np.array([[math.cos(0.1), -math.sin(0.1), 2.0], [math.sin(0.1), math.cos(0.1), 5.0]])
    motion = own_motion(picture_of(now), picture_of(now), strip, guess, known=True)
    np.testing.assert_allclose(motion, guess, atol=1e-6)


STRIPS = [((10, 290), (100, 101)), ((50, 51), (10, 250)), ((5, 6), (5, 6)), ((0, 0), (0, 0))]


@pytest.mark.parametrize("rows, columns", STRIPS)
def test_a_strip_too_thin_to_tell_by_goes_on_as_expected(rows, columns):
    now = torch.rand(3, 300, 300)
    strip = np.zeros((300, 300), bool)
    strip[slice(*rows), slice(*columns)] = True
    guess = np.array([[1, 0, 2.0], [0, 1, 5.0]])
    motion = own_motion(picture_of(now.flip(-1)), picture_of(now), strip, guess, known=True)
    assert np.isfinite(motion).all() and np.abs(motion - guess).max() < 4


def followed(source, squares, hides=HIDDEN):
    """What is known of the companion in every frame: [(picture, share)]. In sight of it is what is not hidden."""
    out, companions = [], None
    for frame, square in zip(source, squares):
        given = frame.clone(), hides.clone(), (square & ~hides).clone()
        if companions is None:
            companions = Companions(*given)
        else:
            companions.advance(*given)
        assert given[0].equal(frame) and given[1].equal(hides) and given[2].equal(square & ~hides)
        out.append(companions.whole())
    return out


@pytest.mark.parametrize("turn", [0.0, 0.08, -0.15])
def test_what_is_hidden_is_known_from_before(turn):
    source, target, squares = crossing(turn)
    seen, counted = 0, 0
    for (picture, share), truth, square in zip(followed(source, squares), target, squares):
        assert picture.shape == truth.shape and share.shape == (1, SIZE, SIZE) and 0 <= share.min() <= share.max() <= 1
        there = HIDDEN & square
        if there.sum() > 80:
            sure = there & (share[0] > 0.5)
            counted, seen = counted + there.sum(), seen + sure.sum()
            assert (picture - truth)[:, sure].square().mean() < 0.012
    assert counted > 1500 and seen > 0.6 * counted


def test_a_slow_one_is_whole_when_it_gets_there():
    """Its outline is cut some pixels before the edit, and does not count any more when it comes near."""
    source, _, squares = crossing(turn=0, speed=0.5)
    hides = edit(-4)  # from x 48 on; the square goes from 37 to 44
    hides[:, 40:] = True
    seen = squares.clone()
    seen[:, :, 34:] = False
    companions = Companions(source[0], hides, squares[0] & ~hides, 8)
    for frame, square in zip(source[1:], seen[1:]):
        companions.advance(frame, hides, square)
    assert (companions.all[0].known() & squares[-1].numpy()).sum() > 0.9 * squares[-1].sum()


def test_one_that_was_just_seen_goes_before_one_that_was_not():
    source, _, squares = crossing()
    companions = Companions(source[0], HIDDEN, squares[0])
    sure = companions.all[0]
    stale = Companion(np.zeros_like(sure.picture), sure.shape.copy(), unseen=5)
    companions.all.append(stale)
    picture, share = companions.whole()
    there = share[0] > 0.9
    assert there.sum() > 200 and (picture - source[0])[:, there].abs().max() < 0.01


def test_one_that_changes_is_not_shown_as_it_was():
    source, _, squares = crossing(changes=7)
    known = followed(source, squares)
    assert (known[6][1][0][HIDDEN] > 0.5).sum() > 80
    assert known[8][1][0][HIDDEN].max() == 0


def test_one_that_is_gone_for_long_is_given_up():
    source, _, squares = crossing(turn=0, speed=6.0, y=60.0)
    hides = HIDDEN.clone()
    hides[:, 40:] = True
    known = followed(source, squares, hides)
    counts = [float(share[0][hides].max()) for _, share in known]
    assert counts[4] > 0.9 and counts[-1] == 0


def test_one_of_which_little_is_in_sight_in_a_shadow_is_followed_on():
    source, target, squares = crossing(turn=0, speed=5.0, y=56.0)
    dark = source.clone()
    for frame, square in zip(dark, squares):
        seen = square & ~HIDDEN
        if seen.sum() < 150:
            frame[:, seen] *= 0.4  # of the removed thing, as it may fall on what is beside it
    assert LEAST < (squares[6] & ~HIDDEN).sum() < 150
    known = followed(dark, squares)
    for t in (6, 7, 11):
        picture, share = known[t]
        there = HIDDEN & squares[t] & (share[0] > 0.5)
        assert there.sum() > 200 and (picture - target[t])[:, there].square().mean() < 0.012


def test_nothing_is_known_where_nothing_moves():
    source, _ = scene()
    for _, share in followed(source, torch.zeros(FRAMES, SIZE, SIZE, dtype=torch.bool)):
        assert share.max() == 0


def tracked(source, keyframe):
    def picture(index, part):
        return picture_of(source[index])[part]

    tracking = Tracking(source[0], keyframe, Moving.of_film(picture, (SIZE, SIZE), range(len(source))), 0)
    found = [tracking.companions()]
    for index in range(1, len(source)):
        tracking.advance(source[index], index)
        found.append(tracking.companions())
    return torch.stack(found)[:, 0]


def test_a_companions_outline_is_found_in_the_film():
    source, target, squares = crossing()
    found = tracked(source, target[0])
    near = edit(6)
    for t in range(2, FRAMES - 2):
        seen = squares[t] & ~near
        assert (found[t] & seen).sum() > 0.8 * seen.sum()
        assert (found[t] & ~squares[t]).sum() < 0.5 * squares[t].sum() and not (found[t] & edit(2)).any()


def test_a_shadow_is_no_companion():
    source, target = scene()
    for frames in (source, target):
        for t in range(FRAMES):
            frames[t, :, 96:116, 20 + 5 * t : 40 + 5 * t] *= 0.6
    assert tracked(source, target[0]).sum() < 0.02 * FRAMES * 20 * 20


@pytest.mark.parametrize("keyframe", [0, FRAMES - 1])
def test_a_clip_is_made_with_what_is_behind_the_removed_thing(keyframe):
    """The stand-in paints the whole of the edit green."""
    source, target, squares = crossing(speed=6.5)
    made = {}
    for companions in (True, False):
        settings = replace(PLAIN, companions=companions)
        result = propagate_clip(Guessing(True), as_bytes(source), {keyframe: as_bytes(target[keyframe])}, settings)
        made[companions] = as_float(result.frames)
    there = HIDDEN & squares
    there[keyframe] = False
    green = (made[False] - GUESS).abs().amax(1) < 0.02
    assert green[there].float().mean() > 0.9, "without them all is the model's"
    errors = {k: (v - target).square().mean(1)[there].mean() for k, v in made.items()}
    assert errors[True] < 0.5 * errors[False]
    far = ~edit(6) & ~squares
    assert (made[True] - made[False])[..., :, :].abs().amax(1)[far].max() == 0


def test_what_was_in_full_sight_only_later_is_known_from_there():
    """It begins behind the thing, and comes out."""
    source, target, squares = crossing(speed=5.0, x=58.0)
    there = (HIDDEN & squares)[1:6]
    assert (squares & ~HIDDEN)[0].sum() < 0.6 * squares[0].sum() and (squares & HIDDEN)[-3:].sum() == 0
    errors = {}
    for companions in (True, False):
        settings = replace(PLAIN, companions=companions)
        made = propagate_clip(Guessing(True), as_bytes(source), {0: as_bytes(target[0])}, settings).frames
        errors[companions] = (as_float(made) - target).square().mean(1)[1:6][there].mean()
    assert errors[True] < 0.5 * errors[False]


@pytest.mark.parametrize("keyframe", [0, FRAMES - 1])
def test_its_shadow_is_laid_with_the_clean_plate(keyframe):
    source, target, squares = crossing(speed=7.5, x=13.0, shadow=True)
    dark = torch.stack([draw(torch.zeros(3, SIZE, SIZE), 19 + 7.5 * t, 45, 0.08 * t) for t in range(FRAMES)])
    there = HIDDEN & dark & ~squares
    there[keyframe] = False
    errors = {}
    for companions in (True, False):
        settings = replace(PLAIN, companions=companions, clean_plate=True)
        made = propagate_clip(Guessing(True), as_bytes(source), {keyframe: as_bytes(target[keyframe])}, settings).frames
        errors[companions] = (as_float(made) - target).square().mean(1)[there].mean()
    assert there.sum() > 800 and errors[True] < 0.5 * errors[False]


def test_it_can_be_stopped_between_frames():
    source, target, _ = crossing()
    view = View(as_bytes(source), plan_fit(SIZE, SIZE, 8), None, "replace", False)
    beside, count = Beside(view), []

    def stop():
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    nothing = [torch.zeros(1, SIZE, SIZE, dtype=torch.bool)] * 8
    ahead = SimpleNamespace(companions=nothing, darkness=[of.byte() for of in nothing])
    with pytest.raises(KeyboardInterrupt):
        beside.laid(source[:8], source[:8], HIDDEN.float().expand(8, 1, -1, -1), ahead, 0, stop)
    assert len(count) == 3


def test_no_more_is_kept_than_a_window():
    source, _, squares = crossing()
    beside = Beside(View(as_bytes(source), plan_fit(SIZE, SIZE, 8), None, "replace", False))
    dark = [torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)] * FRAMES
    ahead = SimpleNamespace(companions=[(square & ~HIDDEN)[None] for square in squares], darkness=dark)
    for start in (0, 5):
        mask = HIDDEN.float().expand(8, 1, -1, -1)
        beside.laid(source[start : start + 8], source[start : start + 8], mask, ahead, start, lambda: None)
        assert set(beside.known) == set(beside.shades) == set(range(start, start + 8))


def test_the_clean_plate_leaves_them_where_they_are():
    """It knows of the backdrop alone."""
    source, target, squares = crossing(speed=6.5)
    there = HIDDEN & squares
    errors = {}
    for companions in (True, False):
        settings = replace(PLAIN, companions=companions, clean_plate=True)
        made = propagate_clip(Guessing(True), as_bytes(source), {0: as_bytes(target[0])}, settings).frames
        errors[companions] = (as_float(made) - target).square().mean(1)[there].mean()
        behind = HIDDEN & ~squares
        assert (as_float(made) - target).square().mean(1)[behind].mean() < 0.004, "and is laid all around"
    assert errors[True] < 0.5 * errors[False]


@pytest.mark.parametrize("changes", [{"behind": False}, {"look_ahead": False}, {"companions": False}])
def test_they_are_put_nowhere_where_it_is_switched_off(changes):
    source, target, squares = crossing()
    settings = replace(PLAIN, **changes)
    frames = propagate_clip(Guessing(True), as_bytes(source), {0: as_bytes(target[0])}, settings).frames
    assert ((as_float(frames) - GUESS).abs().amax(1) < 0.02)[2:, HIDDEN].all()


def test_an_edit_that_removes_nothing_keeps_what_the_model_made():
    source, target, _ = crossing()
    frames = propagate_clip(Guessing(False), as_bytes(source), {0: as_bytes(target[0])}, PLAIN).frames
    assert ((as_float(frames) - GUESS).abs().amax(1) < 0.02)[2:, HIDDEN].all()
