"""What a keyframe shows of what goes behind the removed thing."""

import cv2
import numpy as np
import pytest

from genprop_core.unveiled import unveiled

SIZE = 64
SQUARE = slice(20, 44), slice(16, 44)
RED, YELLOW = (220, 30, 30), (230, 210, 20)


def scene(hidden_from: int):
    """(keyframe, seen, edit, known, still): a yellow square, hidden from a column on by what was removed there."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 160, (8, 8, 3)).astype(np.uint8)
    still = coarse.repeat(8, 0).repeat(8, 1)
    keyframe, square, edit = still.copy(), np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    keyframe[SQUARE], square[SQUARE], edit[12:52, hidden_from:60] = YELLOW, True, True
    return keyframe, square & ~edit, edit, np.ones_like(edit), still, square


def is_found(found, square) -> bool:
    """All of the square, and nothing else but for a rim of one pixel."""
    rim = cv2.dilate(square.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return (found & square).sum() > 0.97 * square.sum() and not (found & ~rim).any()


@pytest.mark.parametrize("known", [True, False])
def test_what_is_hidden_of_it_is_found_also_where_nothing_is_known_of_the_backdrop(known):
    keyframe, seen, edit, told, still, square = scene(30)
    before = seen.copy()
    told &= known | ~edit
    found = unveiled(keyframe, seen, edit, told, still)
    assert found.dtype == bool and is_found(found, square) and np.array_equal(seen, before)


def test_the_backdrop_is_none_of_it_though_the_film_shows_the_removed_thing_there_all_the_time():
    keyframe, seen, edit, known, still, square = scene(30)
    still = still.copy()
    still[14:50, 32:58] = RED
    assert is_found(unveiled(keyframe, seen, edit, known, still), square)


def test_nor_is_a_shadow_that_the_film_shows_there():
    keyframe, seen, edit, known, still, square = scene(30)
    assert is_found(unveiled(keyframe, seen, edit, known, (0.6 * still).astype(np.uint8)), square)


def test_with_little_in_sight_of_it_nothing_is_said():
    keyframe, seen, edit, known, still, _ = scene(18)
    assert seen.any() and np.array_equal(unveiled(keyframe, seen, edit, known, still), seen)
    nothing = np.zeros_like(seen)
    assert not unveiled(keyframe, nothing, edit, known, still).any()
