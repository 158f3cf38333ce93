"""Still images in and out, by Pillow: uint8 [H,W,3] RGB."""
import io
import logging
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from .errors import GenPropError
from .files import atomic

log = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Of Pillow, which goes by what is in a file, whatever its name, and starts other programs for some (PostScript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_SAVE_OPTIONS = {".jpg": {"quality": 95}, ".jpeg": {"quality": 95}, ".webp": {"lossless": True}}


def read_image(path, transparent: str = "dropped") -> torch.Tensor:
    """An image file as uint8 [H,W,3] RGB: EXIF rotation applied, colours brought to sRGB, 16-bit grey scaled to 8.

    transparent: what becomes of places that can be seen through: "dropped" takes their colours as they are, "black"
    lays the picture on black, "refused" raises. Raises GenPropError when there is no image, when it cannot be decoded
    or is truncated, and for pixels of unknown range.
    """
    path = Path(path)
    if not path.is_file():
        raise GenPropError(f"Expected an image at {path}, but there is none. Check the path.")
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("F", "I") and path.suffix.lower() != ".png":
                raise GenPropError(f"Expected 8 or 16-bit pixels, but {path} has pixels of unknown range "
                                   f"(mode {image.mode}). Export it as an 8-bit PNG.")
            if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
                image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            picture = np.array(_in_srgb(image, path).convert("RGB"))
            if transparent != "dropped" and image.has_transparency_data:
                solid = np.asarray(image.convert("RGBA"))[..., 3:]
                if transparent == "refused" and solid.min() < 255:
                    raise GenPropError(f"Expected a picture, but {path} has places that can be seen through: what is "
                                       "there cannot be told. Flatten it onto what shall be seen, and export it again.")
                picture = np.round(picture * (solid / 255)).astype(np.uint8)
            return torch.from_numpy(picture)
    except GenPropError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise GenPropError(f"Expected a whole image, but {path} cannot be decoded ({error}). "
                           f"It may be truncated or of another format; export it again as one of {', '.join(FORMATS)}."
                           ) from None


def _in_srgb(image, path):
    """An RGB picture that comes with another colour profile, as editors on wide screens write, in sRGB. One that cannot
    be used is left out, as viewers do, and that is logged."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return image
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"))
    except (OSError, ImageCms.PyCMSError) as error:  # broken, or of another kind of colours, such as CMYK
        log.warning("the colour profile of %s cannot be used (%s); its colours are taken as sRGB", path, error)
        return image


def write_image(path, image) -> None:
    """Writes uint8 [H,W,3] as the image type of the path's suffix (png and webp keep every value), whole or not at all.

    Raises GenPropError for an image of another type, an unknown suffix, and a place that cannot be written.
    """
    path, array = Path(path), as_frame(image)
    if path.suffix.lower() not in SUFFIXES:
        raise GenPropError(f"Expected a name ending in {', '.join(SUFFIXES)} for an image, got {path}. Rename it.")
    try:
        with atomic(path) as temporary:
            Image.fromarray(array).save(temporary, **_SAVE_OPTIONS.get(path.suffix.lower(), {}))
    except OSError as error:
        raise GenPropError(f"Expected to write an image at {path}, but that failed ({error.strerror or error}). "
                           "Check that the folder can be written and has space.") from None


def as_frame(image) -> np.ndarray:
    """A uint8 [H,W,3] tensor or array as a contiguous NumPy array; anything else raises GenPropError."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise GenPropError(f"Expected a frame of uint8 [H,W,3], got {array.dtype} {list(array.shape)}. "
                           "Convert it to 0..255 first.")
    return np.ascontiguousarray(array)


def image_files(folder) -> list[Path]:
    """The images of a folder in natural order (frame2 before frame10); hidden and other files are left out."""
    images = [p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(images, key=lambda p: [(s.isdecimal(), int(s) if s.isdecimal() else s)
                                         for s in re.split(r"([0-9]+)", p.name.lower())])
