"""What a base is made of, whichever file or folder it came from."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION_FRAMES = {"svd_xt_1_1": 25, "svd_xt": 25, "svd": 14}
_SPELLINGS = (  # longest first: each name contains the next one's
    ("svd_xt_1_1", ("svd_xt_1_1", "svd_xt_1.1", "img2vid_xt_1_1", "img2vid_xt_1.1")),
    ("svd_xt", ("svd_xt", "img2vid_xt")),
    ("svd", ("svd", "img2vid")),
)


@dataclass
class Components:
    """The frozen parts of an SVD base, in eval mode, on the CPU.

    unet: UNetSpatioTemporalConditionModel. vae: AutoencoderKLTemporalDecoder or AutoencoderTiny. image_encoder:
    CLIPVisionModelWithProjection. num_frames: the clip length the base was made for, None where nothing says so.
    version: "svd", "svd_xt", "svd_xt_1_1", "mini", or None where nothing tells. conv_in: the weight of the UNet's first
    convolution in fp16, from the file itself: it tells bases apart whatever dtype they are loaded in.
    """

    unet: Any
    vae: Any
    image_encoder: Any
    num_frames: int | None = None
    version: str | None = None
    conv_in: Any = None


def version_from_name(path) -> str | None:
    """Which SVD a file or folder name speaks of; the folder of a hub cache (models--a--b/snapshots/x) counts too."""
    path = Path(path).absolute()
    names = [path.name]
    if path.parent.name == "snapshots":
        names.append(path.parent.parent.name)
    for name in names:
        name = name.lower().replace("-", "_")
        for version, spellings in _SPELLINGS:
            if any(s in name for s in spellings):
                return version
    return None
