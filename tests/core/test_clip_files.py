"""The files of a clip on the command line, read alike however they come."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from video_clips import clip

from genprop_core.clip_files import read_clip
from genprop_core.video_io import write_image, write_video

EDIT = (slice(4, 10), slice(6, 20))


def masks(folder, kind):
    """A mask and a folder of three, white or of a colour in EDIT."""
    inside = np.zeros((24, 32, 1), np.uint8)
    inside[EDIT] = 255
    pixels = {
        "grey": inside[..., 0],
        "white on nothing": np.concatenate([np.full((24, 32, 3), 255, np.uint8), inside], -1),
        "green": inside * np.array([0, 1, 0], np.uint8),
    }[kind]
    for name in ("one.png", "masks/0.png", "masks/1.png", "masks/2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


@pytest.mark.parametrize("kind", ["grey", "white on nothing", "green"])
def test_masks_are_read_alike_alone_in_a_folder_and_as_truth(tmp_path, kind):
    masks(tmp_path, kind)
    write_video(tmp_path / "source.mp4", clip(3, 24, 32), 24)
    write_image(tmp_path / "key.png", clip(1, 24, 32)[0])
    given = {"source": tmp_path / "source.mp4", "keyframe": [tmp_path / "key.png"], "out": tmp_path / "out"}
    given |= {"truth": tmp_path / "source.mp4", "truth_mask": tmp_path / "masks"}
    wanted = torch.zeros(24, 32, dtype=torch.uint8)
    wanted[EDIT] = 255
    for name, count in (("one.png", 1), ("masks", 3)):
        files = read_clip(SimpleNamespace(**given, mask=tmp_path / name))
        assert torch.equal(files.mask, wanted.expand(count, 1, -1, -1))
        assert torch.equal(files.truth[1], (wanted > 0).float().expand(3, 1, -1, -1))
