"""The shadow of what moves beside the removed thing: found where it is in sight, and drawn from an outline."""

import numpy as np
import pytest

from genprop_core.shade import UNTOLD, Shade, cast, darkness

SIDE = 96


def shape(x=48, y=40, half=12):
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    corner = np.maximum(np.abs(columns - x), np.abs(rows - y) + 0.5 * np.abs(columns - x))
    return (1 / (1 + np.exp((2 * (corner - half)).clip(-50, 50)))).astype(np.float32)


@pytest.mark.parametrize("x, y", [(48, 40), (10, 12), (80, 76)])
@pytest.mark.parametrize("aside, softness, strength", [((6, 0), 2.5, 0.5), ((-5, 7), 1.0, 0.3), ((3, -9), 5.0, 0.6)])
def test_a_shadow_is_found_as_it_was_cast(x, y, aside, softness, strength):
    body = shape(x, y)
    true = Shade(aside, softness, strength, 1.0)
    dark = true.on(body)
    kept = body.copy(), dark.copy()
    found = cast(body, dark, np.ones_like(body, bool))
    assert (body == kept[0]).all() and (dark == kept[1]).all()
    assert np.abs(np.subtract(found.aside, aside)).max() <= 1 and found.softness == softness
    assert found.strength == pytest.approx(strength, rel=0.25) and found.explained > 0.95
    # at the picture's border a part of it is not to be seen
    seen, limit = body < 0.05, 0.1 if (x, y) == (48, 40) else 0.2
    assert np.abs(found.on(body) - dark)[seen].max() < limit and found.on(body).dtype == np.float32


def test_what_cannot_be_told_does_not_count():
    body = shape()
    dark = Shade((6, 2), 2.5, 0.5, 1.0).on(body)
    told = np.ones_like(body, bool)
    told[:36], dark[:36] = False, 0.9
    found = cast(body, dark, told)
    assert np.abs(np.subtract(found.aside, (6, 2))).max() <= 1 and found.strength == pytest.approx(0.5, rel=0.1)


def test_what_does_not_look_like_a_shadow_of_it_is_none():
    body, everywhere = shape(), np.ones((SIDE, SIDE), bool)
    assert cast(body, np.zeros_like(body), everywhere) is None
    assert cast(body, np.full_like(body, 0.04), everywhere) is None, "too weak"
    patches = np.zeros_like(body)
    patches[8:16, 8:88], patches[72:80, 8:88] = 0.5, 0.5
    assert cast(body, patches, everywhere) is None
    assert cast(body, Shade((6, 2), 2.5, 0.5, 1.0).on(body), ~everywhere) is None, "nothing to be seen"


def test_darkness_is_that_of_the_same_picture_in_less_light():
    behind = np.random.default_rng(0).integers(60, 250, (SIDE, SIDE, 3), np.uint8)
    now, known = behind.copy(), np.ones((SIDE, SIDE), bool)
    now[10:20], now[30:40], known[50:60] = behind[10:20] * 0.5, (250, 20, 20), False
    dark = darkness(now, behind, known)
    assert dark.dtype == np.uint8 and np.abs(dark[10:20].astype(int) - 127).max() <= 4
    assert (dark[30:40] == UNTOLD).mean() > 0.9 and (dark[50:60] == UNTOLD).all() and (dark[:10] == 0).all()
    brighter = darkness(behind, (behind * 0.8).astype(np.uint8), known)
    assert not brighter[known].any(), "more light is no shadow"
