"""Feed-forward layers part by part, so that what is between their two products stays in the processor's cache.

A transformer block widens every row eightfold (GEGLU) and narrows it again. All rows at once, that is memory which a
CPU fetches anew in every block, and waits for. The rows do not know each other, so in parts the result is the same but
for rounding. On an accelerator nothing changes.
"""

import torch
from diffusers.models.attention import FeedForward
from torch import nn

from .forwards import computed_by

PART = 2**21  # bytes of the widened rows of a part: about what a core's own cache holds
WIDENED = 8  # times


def in_parts(layer: FeedForward, hidden: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """`layer(hidden)`, hidden [...,C], a part of its rows at a time where it is on a CPU."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    at_once = max(1, PART // (WIDENED * hidden.shape[-1] * hidden.element_size()))
    if hidden.device.type != "cpu" or len(rows) <= at_once:
        return type(layer).forward(layer, hidden, *args, **kwargs)
    parts = [type(layer).forward(layer, part, *args, **kwargs) for part in rows.split(at_once)]
    return torch.cat(parts).unflatten(0, hidden.shape[:-1])


def feed_forward_in_parts(module: nn.Module):
    """Within the block, the feed-forward layers in `module` are computed as above; then they are as they were."""
    return computed_by(in_parts, [m for m in module.modules() if isinstance(m, FeedForward)])
