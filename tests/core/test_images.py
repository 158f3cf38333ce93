"""Images on disk: to the last bit, the unusual ones too, and one plain line for what cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
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


def test_places_that_can_be_seen_through(tmp_path):
    picture = np.full((4, 6, 4), 255, np.uint8)
    picture[:, :3, 3] = 0
    picture[0, 5] = 200, 100, 50, 51
    Image.fromarray(picture).save(tmp_path / "holes.png")
    with pytest.raises(GenPropError, match=r"holes\.png has places that can be seen through.* Flatten it"):
        read_image(tmp_path / "holes.png", "refused")
    on_black = read_image(tmp_path / "holes.png", "black")
    assert on_black[:, :3].max() == 0 and on_black[1:, 3:].min() == 255 and on_black[0, 5].tolist() == [40, 20, 10]
    assert read_image(tmp_path / "holes.png")[:, :3].min() == 255
    for name, image in (("solid.png", picture[..., [0, 1, 2, 2]] | 255), ("plain.png", picture[..., :3])):
        Image.fromarray(image).save(tmp_path / name)
        for how in ("refused", "black"):
            assert torch.equal(read_image(tmp_path / name, how), read_image(tmp_path / name))
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 255, 255, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=0)
    with pytest.raises(GenPropError, match="seen through"):
        read_image(tmp_path / "palette.png", "refused")


def test_colours_of_another_profile_are_brought_to_srgb(tmp_path, caplog):
    image = Image.fromarray(clip(1)[0].numpy())
    srgb, lab = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)) for name in ("sRGB", "LAB"))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "srgb.png", icc_profile=srgb.tobytes())
    assert torch.equal(read_image(tmp_path / "srgb.png"), read_image(tmp_path / "plain.png"))
    wide = wide_profile(srgb.tobytes())
    image.save(tmp_path / "wide.png", icc_profile=wide)
    red = read_image(tmp_path / "wide.png").int() - read_image(tmp_path / "plain.png").int()
    assert 5 < red.abs().max() and red.float().mean().abs() < 40
    for name, profile in (("broken.png", b"none" * 40), ("foreign.png", lab.tobytes())):
        image.save(tmp_path / name, icc_profile=profile)
        assert torch.equal(read_image(tmp_path / name), read_image(tmp_path / "plain.png"))
        assert name in caplog.text and "cannot be used" in caplog.text
        caplog.clear()
    data = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "wide.png").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(GenPropError, match="wide.png cannot be decoded"):
        read_image(tmp_path / "wide.png")


def wide_profile(srgb: bytes) -> bytes:
    """The sRGB profile with red and green exchanged, under another name."""
    red, green = srgb.index(b"rXYZ"), srgb.index(b"gXYZ")
    changed = bytearray(srgb)
    changed[red : red + 4], changed[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(changed).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB", b"wide")


def test_images_that_cannot_be_read(tmp_path):
    write_image(tmp_path / "a.png", clip(1)[0])
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:len(data) // 2])
    with pytest.raises(GenPropError, match="whole image, but .* cannot be decoded"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(GenPropError, match="whole image, but .* cannot be decoded"):
        read_image(tmp_path / "b.png")
    for name, kind in (("d.png", "EPS"), ("e.png", "PPM")):
        Image.fromarray(clip(1)[0].numpy()).save(tmp_path / name, kind)
        with pytest.raises(GenPropError, match="cannot be decoded .* export it again as one of PNG, JPEG"):
            read_image(tmp_path / name)
    Image.fromarray(clip(1)[0].numpy()).save(tmp_path / "f.png", "GIF")
    assert read_image(tmp_path / "f.png").shape == clip(1)[0].shape
    with pytest.raises(GenPropError, match="Expected an image at .*c.png, but there is none"):
        read_image(tmp_path / "c.png")
