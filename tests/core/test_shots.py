"""Scene cuts: found where there are some, however short the shots, and not made up from motion or a flash."""

from pathlib import Path

import pytest
import torch

from genprop_core.shots import find_shots
from genprop_core.video_io import read_video

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def scene(seed, frames, speed=1):
    """uint8 [T,3,48,80]: a coarse random picture that slides by."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 10, generator=g)
    picture = torch.nn.functional.interpolate(coarse, (48, 80), mode="bicubic").clamp(0, 1)[0]
    return (torch.stack([picture.roll(speed * t, -1) for t in range(frames)]) * 255).byte()


def test_cuts_are_found_however_short_the_shots():
    shots = [scene(1, 20), scene(2, 5), scene(3, 4), scene(4, 30)]
    assert find_shots(torch.cat(shots)) == [(0, 20), (20, 25), (25, 29), (29, 59)]
    assert find_shots(torch.cat(shots).float() / 255) == [(0, 20), (20, 25), (25, 29), (29, 59)]


def test_a_cut_out_of_fast_motion_is_found():
    assert find_shots(torch.cat([scene(5, 15, speed=2), scene(6, 15, speed=0)])) == [(0, 15), (15, 30)]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_cut(length):
    frames = scene(7, 30, 0)
    frames[10 : 10 + length] = 255
    assert find_shots(frames) == [(0, 30)]


@pytest.mark.parametrize("speed", [0, 1, 4, 11])
def test_motion_is_no_cut(speed):
    assert find_shots(scene(8, 25, speed)) == [(0, 25)]
    started = torch.cat([scene(8, 10, 0), scene(8, 20, speed)])  # from rest, and on
    assert find_shots(started) == [(0, 30)]


def test_noise_and_short_clips_are_one_shot():
    assert find_shots(torch.rand(12, 3, 40, 40, generator=torch.Generator().manual_seed(0))) == [(0, 12)]
    assert find_shots(torch.cat([scene(1, 1), scene(2, 2)])) == [(0, 3)]


def test_something_bright_that_jumps_in_a_still_scene_is_no_cut():
    frames = scene(9, 20, 0)
    frames[:10, :, 10:25, 10:30] = 255
    frames[10:, :, 10:25, 45:65] = 255
    assert find_shots(frames) == [(0, 20)]


@pytest.mark.parametrize(
    "name, cuts", [("bikes", [30, 76, 137, 187, 242]), ("bmx-trees", []), ("carphone_pristine", [])]
)
def test_filmed_clips(name, cuts):
    path = DATA / f"{name}.mp4"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    assert [start for start, _ in find_shots(read_video(path).frames.movedim(-1, 1))[1:]] == cuts
