"""Pictures as numbers: uint8 0..255 at rest, float in [0,1] to compute with, and from one size to another."""

import torch
import torch.nn.functional as F


def as_float(frames: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 or float in [0,1] -> float32 in [0,1], whatever the shape."""
    return frames.float().div_(255) if frames.dtype == torch.uint8 else frames.float()  # in place: clips are large


def as_bytes(frames: torch.Tensor) -> torch.Tensor:
    """float in [0,1] -> the nearest uint8; uint8 stays as it is."""
    if frames.dtype == torch.uint8:
        return frames
    return (frames.float() * 255).round().clamp(0, 255).to(torch.uint8)


def like(frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The frames in the reference's dtype: uint8 0..255 for uint8, else float in [0,1]."""
    return as_bytes(frames) if reference.dtype == torch.uint8 else as_float(frames).to(reference.dtype)


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Float [N,C,h,w] -> [N,C,height,width], antialiased bicubic in [0,1]; unchanged when the size is the same."""
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
