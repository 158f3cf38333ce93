"""The camera's motion: found to a fraction of a pixel, without texture, and whatever else moves."""

import cv2
import numpy as np
import pytest
from soft_waves import waves

from genprop_core.camera import camera_motion, warped

PAN = np.array([[1.0, 0, 3.3], [0, 1.0, -2.2]])
SLOW_ZOOM = np.array([[1.012, -0.006, -2.0], [0.007, 1.01, 1.5]])


def pair(motion, height=128, width=128, **kind):
    """(before, now): `now` shows at x what `before` shows at motion x; cut from a larger picture, without a border."""
    edge = 16
    large = waves(height + 2 * edge, width + 2 * edge, **kind)
    shift = np.array([[1, 0, edge], [0, 1, edge], [0, 0, 1.0]])
    whole = (shift @ np.vstack([motion, [0, 0, 1]]) @ np.linalg.inv(shift))[:2]
    now = warped(large, whole)
    return tuple(np.ascontiguousarray(p[edge:-edge, edge:-edge]) for p in (large, now))


def error(found, motion, height=128, width=128):
    """Largest distance, in pixels, at the corners."""
    corners = np.array([[x, y, 1.0] for x in (0, width - 1) for y in (0, height - 1)]).T
    return np.linalg.norm((found - motion) @ corners, axis=0).max()


@pytest.mark.parametrize("motion", [PAN, SLOW_ZOOM], ids=["pan", "zoom"])
@pytest.mark.parametrize("grey", [True, False], ids=["grey", "one brightness"])
def test_soft_gradients_are_enough(motion, grey):
    before, now = pair(motion, grey=grey)
    copies = before.copy(), now.copy()
    assert error(camera_motion(before, now, np.ones((128, 128), bool)), motion) < 0.4
    assert np.array_equal(before, copies[0]) and np.array_equal(now, copies[1])


def test_what_moves_otherwise_or_is_left_out_counts_for_nothing():
    before, now = pair(PAN)
    for picture, left in ((before, 20), (now, 26)):
        picture[30:70, left : left + 40] = (230, 40, 90)
    free = np.ones((128, 128), bool)
    free[80:120, 60:110] = False
    now[80:120, 60:110] = 255
    assert error(camera_motion(before, now, free), PAN) < 0.4


def test_a_large_picture_is_looked_at_smaller():
    wide = np.array([[1.004, 0.002, 9.0], [-0.003, 0.998, -6.0]])
    before, now = pair(wide, 432, 768)
    before, now = (cv2.GaussianBlur(p, (5, 5), 0) for p in (before, now))
    assert error(camera_motion(before, now, np.ones((432, 768), bool)), wide, 432, 768) < 0.8


def test_a_flat_picture_is_said_to_stand_still():
    flat, free = np.full((96, 128, 3), 200, np.uint8), np.ones((96, 128), bool)
    assert np.allclose(camera_motion(flat, flat, free), np.eye(2, 3))
    assert np.allclose(camera_motion(flat, flat - 90, free), np.eye(2, 3)), "darker all over"


@pytest.mark.parametrize("size", [(3, 200), (1, 1), (24, 40)])
def test_tiny_pictures_are_no_trouble(size):
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    motion = camera_motion(picture, picture, np.ones(size, bool))
    assert motion is None or np.allclose(motion, np.eye(2, 3), atol=0.05)


def test_nothing_is_found_where_next_to_nothing_is_free():
    before, now = pair(PAN)
    free = np.zeros((128, 128), bool)
    free[:30, :30] = True
    assert camera_motion(before, now, free) is None


@pytest.mark.parametrize("grey", [True, False], ids=["grey", "colours"])
def test_a_fraction_of_a_pixel_is_found_without_a_bias(grey):
    """Frames that several pixels of a larger picture were put into, as in a camera, so that none is interpolated."""
    times, size = 8, 96
    large = waves(times * (size + 4), times * (size + 4), grey=grey)
    errors = []
    for x in range(-11, 12, 2):
        before, now = (
            cv2.resize(np.ascontiguousarray(large[16:, 16 + at :][: times * size, : times * size]), (size, size),
                       interpolation=cv2.INTER_AREA) for at in (0, x)
        )  # fmt: skip
        found = camera_motion(before, now, np.ones((size, size), bool))
        errors.append((found @ [size / 2, size / 2, 1])[0] - size / 2 - x / times)
    assert np.abs(errors).max() < 0.02, errors
