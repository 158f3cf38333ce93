"""Putting the edited region back into the source, pixel by pixel."""
import torch
import torch.nn.functional as F

THRESHOLD = 0.5


def dilate(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """[T,1,H,W] grown by `pixels` in every direction (a square)."""
    if pixels <= 0:
        return mask
    size = 2 * pixels + 1
    mask = F.max_pool2d(mask, (size, 1), stride=1, padding=(pixels, 0))
    return F.max_pool2d(mask, (1, size), stride=1, padding=(0, pixels))


def alpha(mask: torch.Tensor, grow: int, feather: int) -> torch.Tensor:
    """Soft mask [T,1,H,W] in [0,1] -> how much of the result shows: 1 in the grown region, falling evenly to 0 within
    `feather` pixels around it, exactly 0 beyond."""
    inside = dilate((mask > THRESHOLD).float(), grow)
    out = inside.clone()
    for _ in range(feather):
        inside = dilate(inside, 1)
        out += inside
    return out / (feather + 1)


def composite(source, result, mask, grow: int, feather: int) -> torch.Tensor:
    """[T,3,H,W] each, mask [T,1,H,W]: the result inside the mask, the source's own numbers outside."""
    weight = alpha(mask, grow, feather)
    return torch.where(weight > 0, source + weight * (result - source), source)
