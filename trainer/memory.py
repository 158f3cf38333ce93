"""Where a training step's memory goes: `--dry_run`'s table, from sizes alone, without a forward pass on real data.

And what helps where there is too little.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.base import Base, Defaults
from genprop_core.conditioning import Condition
from genprop_core.config import BaseShape
from genprop_core.losses import LossSettings
from genprop_core.out_of_memory import explained

from . import gradient_checkpointing
from .dataset import working_size
from .step import StepSettings, loss_terms

GIB = 2**30
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # by --mixed_precision
SVD = BaseShape((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 1024, 256)
SETTINGS = {  # as trainer/train.py has what `out_of_memory.HELPS` names
    "checkpointing": "--gradient_checkpointing",
    "dtype": "--mixed_precision bf16 or fp16",
    "batch": "a smaller --batch_size with more --gradient_accumulation_steps",
    "frames": "fewer --num_frames",
    "size": "a smaller --resolution",
}


def enough_memory(args, doing: str, what: str):
    """`out_of_memory.explained` in the trainer's own settings, without those that are set already."""
    half = args.mixed_precision != "no"
    done = {"checkpointing": args.gradient_checkpointing, "dtype": half, "batch": args.batch_size == 1}
    return explained(doing, what, [name for name in done if done[name]], SETTINGS)


def svd_without_weights() -> Base:
    """Stable Video Diffusion's UNet as sizes alone: what `--dry_run --base svd` counts with, no file needed."""
    from diffusers import UNetSpatioTemporalConditionModel

    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**SVD.unet_config())
    return Base("svd", unet.requires_grad_(False), None, None, Defaults())


def parameter_bytes(*modules) -> int:
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


@contextmanager
def saved_bytes(*modules):
    """Counts the bytes that autograd keeps for the backward pass, each storage once, the modules' weights left out.

    Yields an object whose `bytes` is the count when the block has ended.
    """
    known = {p.untyped_storage()._cdata for m in modules for p in m.parameters()}
    seen, counter = {}, SimpleNamespace(bytes=0)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            seen[storage._cdata] = storage  # kept alive, so that no later storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counter
    counter.bytes = sum(s.nbytes() for s in seen.values())


class _LeanAttention(torch.autograd.Function):
    """What a memory-efficient attention kernel keeps: its three inputs and its output. For sizes only."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("sizes only")


class Autocast(TorchFunctionMode):
    """`torch.autocast` as GPUs have it and the meta device has not, for what a UNet and the adapters call.

    Convolutions and products are computed in `dtype`, norms in fp32. As there, a trained weight is cast once, and what
    it was cast to is kept.
    """

    LOWER = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "bmm", "baddbmm", "addmm")
    FULL = ("group_norm", "layer_norm")

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.weights = dtype, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.__name__.strip("_"), kwargs or {}
        wanted = self.dtype if name in self.LOWER else torch.float32 if name in self.FULL else None
        if wanted is not None:
            args = [self._cast(value, wanted) for value in args]
            kwargs = {key: self._cast(value, wanted) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value, dtype):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (isinstance(value, torch.nn.Parameter) and value.requires_grad):
            return value.to(dtype)
        if value not in self.weights:
            self.weights[value] = value.to(dtype)
        return self.weights[value]


def activation_bytes(
    unet, adapters, size, num_frames: int, batch: int, dtype, checkpointing: bool, loss: LossSettings
) -> int:
    """Bytes kept for the backward pass of one forward pass at size (height, width) in pixels, on the meta device.

    As train.py has them, the frozen UNet is in `dtype`, adapters and latents in fp32, and `dtype` is autocast's.
    """
    unet, adapters = torch.nn.Module.to(unet, "meta", dtype), adapters.to("meta", torch.float32)
    h, w, frames = size[0] // 8, size[1] // 8, num_frames

    def empty(*shape, kind=torch.float32):
        return torch.empty(shape, device="meta", dtype=kind)

    latents = (batch, frames, 4, h, w)
    condition = Condition(
        empty(*latents), empty(batch, 1, adapters.config.base.cross_attention_dim), empty(batch, 3),
        empty(batch, kind=torch.long), empty(*latents), empty(*latents),
    )  # fmt: skip
    random = {"noise": empty(*latents), "perturbation": empty(*latents), "sigma": empty(batch),
              "drop": empty(batch, kind=torch.bool)}  # fmt: skip
    parts = gradient_checkpointing.enable(unet, adapters.sce) if checkpointing else []
    attention = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, *a, **kw: _LeanAttention.apply(q, k, v)
    try:
        with (
            attach(unet, adapters.config.num_blocks) as taps,
            saved_bytes(unet, adapters) as counter,
            nullcontext() if dtype == torch.float32 else Autocast(dtype),
        ):
            mask = empty(batch, frames, 1, h, w)
            loss_terms(unet, taps, adapters, condition, empty(*latents), mask, random, StepSettings(loss))
    finally:
        F.scaled_dot_product_attention = attention
        gradient_checkpointing.disable(parts)
    return counter.bytes


def table(base, adapters: GenPropAdapters, args, loss: LossSettings) -> str:
    """Markdown: parameters, gradients, optimiser, averages and activations in GiB, for these settings."""
    size = working_size(base.defaults.width, base.defaults.height, args.resolution, base.size_multiple)
    dtype = DTYPES[args.mixed_precision]
    total = sum(p.numel() for m in (base.unet, adapters) for p in m.parameters())
    trainable = sum(p.numel() for p in adapters.trainable())
    unet = sum(p.numel() for p in base.unet.parameters()) * torch.finfo(dtype).bits // 8
    weights = parameter_bytes(adapters)
    activations = {
        name: activation_bytes(base.unet, adapters, size, args.num_frames, args.batch_size, dtype, on, loss)
        for name, on in (("plain", False), ("checkpointed", True))
    }
    used = activations["checkpointed" if args.gradient_checkpointing else "plain"]
    rows = [
        ("UNet, frozen", unet), ("adapters, fp32", weights), ("gradients", 4 * trainable),
        ("AdamW moments", 8 * trainable), ("averaged weights (EMA)", 4 * trainable),
        ("activations", activations["plain"]), ("activations, --gradient_checkpointing", activations["checkpointed"]),
        ("sum with these settings", unet + weights + 16 * trainable + used),
    ]  # fmt: skip
    head = (
        f"{args.num_frames} frames of {size[1]}x{size[0]}, batch {args.batch_size}, {args.mixed_precision}: "
        f"{trainable / 1e6:.1f} M of {total / 1e6:.1f} M parameters (UNet and adapters) are trained"
    )
    lines = [head, "", "| what | GiB |", "|---|---|", *(f"| {name} | {size / GIB:.3f} |" for name, size in rows)]
    note = "Activations are counted without running them; kernels' scratch memory comes on top."
    return "\n".join([*lines, "", note])
