"""Adds the injections to a diffusers SVD UNet, and reads the mask decoder's features, by hooks that leave no trace."""

from contextlib import contextmanager

import torch

from .config import BaseShape
from .errors import GenPropError
from .feed_forward import feed_forward_in_parts
from .one_token import one_token_attention
from .temporal_conv import flat_temporal_convolutions


def tap_modules(unet, num_blocks: int) -> list:
    """The modules whose outputs are the taps: conv_in, every layer of the first down blocks, their downsamplers.

    Changing these outputs changes the skip connections too, which is where background detail travels.
    """
    modules = [unet.conv_in]
    for block in unet.down_blocks[:num_blocks]:
        # a layer ends with its attention; the last level has resnets only
        modules += list(getattr(block, "attentions", None) or block.resnets)
        modules += list(block.downsamplers or [])
    return modules


class Taps:
    """What the hooks add and record during UNet calls.

    add: list of [n,C,h,w] tensors or None per tap; a UNet batch of k*n frames gets each of them k times.
    first: optional function of the UNet's first features that returns such a list (the fused form).
    decoder_features: [n,C,h,w], the penultimate up block's output of the latest call with `record`: they are large, so
    they are kept only where they are wanted.
    batch: samples in the call to come, where it is known (see `one_token`).
    """

    def __init__(self):
        self.add, self.first, self.decoder_features, self.batch, self.record = None, None, None, None, True


def _add(hidden: torch.Tensor, extra: torch.Tensor, tap: int) -> torch.Tensor:
    copies, rest = divmod(hidden.shape[0], extra.shape[0])
    if rest or hidden.shape[1:] != extra.shape[1:]:
        raise GenPropError(
            f"Expected injections of shape {tuple(hidden.shape)} at tap {tap}, got {tuple(extra.shape)}. "
            "The adapters or their features were made for another base, size or number of frames."
        )
    return (hidden.unflatten(0, (copies, -1)) + extra.to(hidden.dtype)).flatten(0, 1)


@contextmanager
def attach(unet, num_blocks: int):
    """Within the block, `unet` adds what the yielded Taps holds. Afterwards it is exactly what it was.

    Its cross-attentions, convolutions over time and feed-forward layers are taken the short way meanwhile (`one_token`,
    `temporal_conv`, `feed_forward`); so with gradient checkpointing, which computes blocks again, the backward pass
    belongs inside too.
    """
    BaseShape.from_unet(unet)  # refuses what is not SVD
    taps, handles = Taps(), []

    def hook_for(index):
        def hook(module, inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            if index == 0 and taps.first is not None:
                taps.add = taps.first(hidden)
            extra = None if taps.add is None else taps.add[index]
            if extra is None:
                return None
            hidden = _add(hidden, extra, index)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    def record(module, inputs, output):
        taps.decoder_features = output if taps.record else None

    try:
        for index, module in enumerate(tap_modules(unet, num_blocks)):
            handles.append(module.register_forward_hook(hook_for(index)))
        handles.append(unet.up_blocks[-2].register_forward_hook(record))
        attention = one_token_attention(unet, lambda: taps.batch)
        with attention, flat_temporal_convolutions(unet), feed_forward_in_parts(unet):
            yield taps
    finally:
        for handle in handles:
            handle.remove()
