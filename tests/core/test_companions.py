"""What moves beside the removed thing and goes behind it: how it moves, and what is hidden of it."""

import math

import numpy as np
import pytest
import torch
from crossing_scene import HIDDEN, crossing, draw
from panning_scene import FRAMES, SIZE, edit, scene

from genprop_core.companions import LEAST, Companion, Companions
from genprop_core.moving import Moving
from genprop_core.own_motion import own_motion
from genprop_core.passing import picture_of
from genprop_core.shade import UNTOLD
from genprop_core.tracking import Tracking


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


def test_in_large_pictures_its_shadow_is_found_where_it_was_looked_for():
    """Darkness comes at the size that things are followed in; a shadow is found in that, and laid at the picture's."""
    ratio, cover, dark = 4, torch.zeros(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE)
    square, shadow = draw(cover, 60, 50, 0.3), draw(dark, 72, 58, 0.3)
    large = np.kron(square.numpy(), np.ones((ratio, ratio), bool))
    darkness = np.where(square, UNTOLD, np.where(shadow, 127, 0)).astype(np.uint8)
    nothing, frame = torch.zeros(large.shape, dtype=torch.bool), torch.full((3, *large.shape), 0.5)
    found = Companions(frame, nothing, torch.from_numpy(large), dark=darkness).shades()[0].numpy()
    wanted = 0.5 * np.kron((shadow & ~square).numpy(), np.ones((ratio, ratio), np.float32))
    assert found.max() == pytest.approx(0.5, abs=0.1)
    assert np.abs(found - wanted)[~large].mean() < 0.25 * wanted.mean()


def test_a_shadow_is_no_companion():
    source, target = scene()
    for frames in (source, target):
        for t in range(FRAMES):
            frames[t, :, 96:116, 20 + 5 * t : 40 + 5 * t] *= 0.6
    assert tracked(source, target[0]).sum() < 0.02 * FRAMES * 20 * 20
