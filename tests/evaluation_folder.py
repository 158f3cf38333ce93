"""A data folder of small clips, and the evaluation of one by the command."""

import json

import torch

from genprop_core.video_io import write_image
from trainer import evaluate

OPTIONS = ["--steps", "1", "--controls", "1"]


def picture(t, size, shown=True):
    """A gradient that moves, uint8 [H,W,3], with a square on it."""
    ramp = torch.arange(size).add(3 * t).mul(255 // (size + 30)).byte()
    image = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), torch.full((size, size), 90)], -1)
    image = image.to(torch.uint8).clone()
    if shown:
        image[20:44, 10 + t : 34 + t] = torch.tensor([250, 20, 20], dtype=torch.uint8)
    return image


def folder(root, name, frames=3, size=64, target=None, mask=None):
    """One clip of a data folder, as folders of images; target and mask: frames of each, None for none."""
    for t in range(frames):
        write_image(root / "original_videos" / name / f"{t}.png", picture(t, size))
    for t in range(target or 0):
        write_image(root / "edited_videos" / name / f"{t}.png", picture(t, size, shown=False))
    for t in range(mask or 0):
        region = torch.zeros(size, size, 3, dtype=torch.uint8)
        region[20:44, 10 + t : 34 + t] = 255
        write_image(root / "masks" / name / f"{t}.png", region)


def run(tmp_path, *options):
    json_file = tmp_path / "scores.json"
    given = [*OPTIONS, "--cache", str(tmp_path / "cache"), "--json", str(json_file), *map(str, options)]
    assert evaluate.main(given) == 0
    return json.loads(json_file.read_text())
