"""The 1x1 convolution behind the VAE encoder, which diffusers' layout has and the official single file has not.

The official `first_stage_model` ends at `encoder.conv_out`, and ComfyUI applies nothing after it. A quant_conv that is
not the identity is therefore folded into conv_out when a single file is written; the encoder as it was, with its
quant_conv, goes where official files keep such a copy (`conditioner.embedders.3.encoder`), so nothing is lost.
"""
import logging
from collections.abc import Mapping

import torch

from .lazy_tensors import LazyTensor
from .svd_keys import CONDITION_ENCODER, REQUIRED
from .svd_parts import Part

log = logging.getLogger(__name__)
CONV_OUT = ("encoder.conv_out.weight", "encoder.conv_out.bias")
QUANT = ("quant_conv.weight", "quant_conv.bias")
TOLERANCE = 1e-2  # relative; fp16 rounding of a folded convolution stays far below


def is_identity(weight: LazyTensor, bias: LazyTensor) -> bool:
    """Whether a 1x1 convolution [C,C,1,1] with bias [C] returns its input."""
    matrix = weight.read()[:, :, 0, 0].float()
    return matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix))) and not bias.read().any()


def identity_tensors(vae: Part) -> dict[str, LazyTensor]:
    """quant_conv of a VAE whose file has none, in the dtype of conv_out."""
    channels, dtype = 2 * vae.config["latent_channels"], vae.tensors[CONV_OUT[0]].dtype
    weight = torch.eye(channels, dtype=dtype)[:, :, None, None]
    return dict(zip(QUANT, (LazyTensor.of(weight), LazyTensor.of(torch.zeros(channels, dtype=dtype))), strict=True))


def folded(conv_out: tuple[LazyTensor, LazyTensor], quant: tuple[LazyTensor, LazyTensor]) -> tuple[torch.Tensor, ...]:
    """(weight, bias) of quant_conv after conv_out as one convolution; computed in fp64, in conv_out's dtype."""
    weight, bias, matrix, shift = (t.read().double() for t in (*conv_out, *quant))
    matrix = matrix[:, :, 0, 0]
    made = torch.einsum("oc,cihw->oihw", matrix, weight), matrix @ bias + shift
    return tuple(t.to(like.dtype) for t, like in zip(made, conv_out, strict=True))


def kept_copy(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor] | None:
    """conv_out and quant_conv from an official file whose first_stage_model is exactly their fold, else None."""
    names = {CONV_OUT[0]: "encoder.conv_out.weight", CONV_OUT[1]: "encoder.conv_out.bias",
             QUANT[0]: "quant_conv.weight", QUANT[1]: "quant_conv.bias"}  # fmt: skip
    copy = {ours: tensors.get(CONDITION_ENCODER + theirs) for ours, theirs in names.items()}
    now = [tensors.get(REQUIRED["vae"] + k) for k in CONV_OUT]
    if any(t is None for t in (*copy.values(), *now)) or copy[CONV_OUT[0]].dtype != now[0].dtype:
        return None
    whole = folded(tuple(copy[k] for k in CONV_OUT), tuple(copy[k] for k in QUANT))
    return copy if all(torch.equal(a, b.read()) for a, b in zip(whole, now, strict=True)) else None


def check_condition_encoder(tensors: Mapping[str, LazyTensor], path) -> None:
    """Logs a warning when the file's second VAE copy has a quant_conv that is not contained in first_stage_model."""
    keys = [CONDITION_ENCODER + k for k in (*CONV_OUT, *QUANT)]
    now = tensors.get(REQUIRED["vae"] + CONV_OUT[0])
    if now is None or any(k not in tensors for k in keys) or tensors[keys[0]].shape != now.shape:
        return
    copy = [tensors[k] for k in keys]
    if is_identity(*copy[2:]):
        return
    whole, now = folded(tuple(copy[:2]), tuple(copy[2:]))[0].double(), now.read().double()
    if (whole - now).norm() > TOLERANCE * now.norm():
        log.warning(
            "%s: the second VAE copy (conditioner.embedders.3) has a quant_conv that first_stage_model lacks; "
            "first_stage_model is used, as ComfyUI does. A diffusers folder of this model may encode differently.",
            path,
        )
