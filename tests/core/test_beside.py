"""What moves and goes behind the removed thing, in a clip: where it is put, and with the clean plate."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from crossing_scene import HIDDEN, crossing, draw
from panning_scene import FRAMES, GUESS, SIZE, Guessing, edit

from genprop_core.beside import Beside
from genprop_core.clip_input import View
from genprop_core.fit import plan_fit
from genprop_core.frames import as_bytes, as_float
from genprop_core.long_clip import ClipSettings, propagate_clip

PLAIN = ClipSettings(find_shots=False, colour="off")


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
