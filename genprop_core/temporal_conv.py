"""SVD's convolutions over time as two-dimensional ones.

A kernel of 3x1x1 over [B,C,T,H,W] is a kernel of 3x1 over [B,C,T,H*W]: the same sums. PyTorch's three-dimensional
convolution has no fast path on a CPU, the two-dimensional one has, so this takes half the time there. The result
differs by rounding alone.
"""

import torch.nn.functional as F
from torch import nn

from .forwards import computed_by


def convolve(conv: nn.Conv3d, hidden):
    """`conv(hidden)` for a kernel of one pixel; hidden [B,C,T,H,W]."""
    flat = F.conv2d(
        hidden.flatten(3), conv.weight[..., 0], conv.bias, conv.stride[:2], conv.padding[:2], conv.dilation[:2],
        conv.groups,
    )  # fmt: skip
    return flat.unflatten(3, hidden.shape[3:])


def _fits(module) -> bool:
    if not isinstance(module, nn.Conv3d) or module.padding_mode != "zeros":
        return False
    return all(v[1:] == (1, 1) for v in (module.kernel_size, module.stride)) and module.padding[1:] == (0, 0)


def flat_temporal_convolutions(module: nn.Module):
    """Within the block, the convolutions over time in `module` are computed as above; then they are as they were."""
    return computed_by(convolve, [m for m in module.modules() if _fits(m)])
