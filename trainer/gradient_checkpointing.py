"""Gradient checkpointing of resnets and attention alike (diffusers' own covers SVD's resnets only).

A module's `forward` is replaced, not the module: forward hooks, such as those of `attach`, run outside of what is
computed again, and weights keep their names.
"""

from functools import partial

from torch.utils.checkpoint import checkpoint

KINDS = ("SpatioTemporalResBlock", "TransformerSpatioTemporalModel")


def enable(*modules) -> list:
    """Checkpoints every resnet and every attention of the modules (a UNet, an SCE); returns what was changed."""
    parts = [part for module in modules for part in module.modules() if type(part).__name__ in KINDS]
    for part in parts:
        if "forward" not in vars(part):
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)
    return parts


def disable(parts: list):
    """Undoes `enable`."""
    for part in parts:
        vars(part).pop("forward", None)
