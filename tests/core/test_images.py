"""Images on disk: to the last bit, the unusual ones too, and one plain line for what cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image
from video_clips import clip

from genprop_core.errors import GenPropError
from genprop_core.video_io import read_image, write_image


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_images_come_back_to_the_last_bit(tmp_path, suffix):
    image = torch.randint(0, 256, (17, 23, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    write_image(tmp_path / f"image{suffix}", image)
    assert torch.equal(read_image(tmp_path / f"image{suffix}"), image)


def test_unusual_images(tmp_path):
    image = clip(1)[0]
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert torch.equal(read_image(tmp_path / "deep.png")[..., 0], torch.arange(256).reshape(16, 16).to(torch.uint8))
    turned = Image.fromarray(image.numpy())
    exif = turned.getexif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "turned.png"), torch.rot90(image, -1, dims=(0, 1)))
    alpha = np.dstack([image.numpy(), np.full(image.shape[:2], 9, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert torch.equal(read_image(tmp_path / "alpha.png"), image)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(GenPropError, match="unknown range"):
        read_image(tmp_path / "float.tif")


def test_images_that_cannot_be_read(tmp_path):
    write_image(tmp_path / "a.png", clip(1)[0])
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:len(data) // 2])
    with pytest.raises(GenPropError, match="whole image, but .* cannot be decoded"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(GenPropError, match="whole image, but .* cannot be decoded"):
        read_image(tmp_path / "b.png")
    with pytest.raises(GenPropError, match="Expected an image at .*c.png, but there is none"):
        read_image(tmp_path / "c.png")
