"""The colours of a made window brought back to the source's, by what both show outside the mask.

Nothing outside the region is meant to change, so the difference there is drift: of the VAE, of the sampler, and of
windows that each start from the one before. `match` measures it on smoothed pixels, so that detail which the VAE
cannot carry does not count, and takes it off inside and outside alike.

How it is meant to be called: once per window, on the decoded frames at the working size, before overlaps are fused and
before anything is composited: `frames = match(frames, source, mask)`, with the window's own soft mask at any size.
"""

import math

import torch
import torch.nn.functional as F

from .errors import GenPropError

CELL = 8  # pixels a side of the patches whose means are compared: one latent
ROUNDS = 8  # of reweighting; more changes nothing
KINDS = ("offset", "gain", "smooth", "local")
REACHES = (16.0, 8.0, 4.0, 2.0)  # in patches: how far around a place "local" looks, from coarse to fine
THING = 0.06  # a shift of "local" larger than this is less and less likely light, and more and more another thing
SURE = 0.5  # weight of patches in reach from which on a reach counts half
STIFFNESS = 1e-4  # pull of every term but the shift towards 0: what the colours there do not show is not made up


def match(frames: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None, kind: str = "offset") -> torch.Tensor:
    """frames and source float [T,3,H,W] in [0,1], soft mask [T,1,h,w] of any size or None -> float [T,3,H,W] in [0,1].

    kind: "offset", one shift a channel for the whole window; "gain", a factor and a shift a channel; "smooth", a shift
    that varies over the picture as a quadratic surface, the same for every frame: one correction for the window, so
    that nothing flickers. "local": a shift per frame and place, from the patches around it, carried on into the mask
    from its rim, so that what is made there stays in the light of what surrounds it. What fits badly (a mask that
    misses its shadow, a wrong limb) hardly counts: least squares, reweighted by the weight of Geman and McClure from
    the median shift on. Identical frames, and a mask that leaves
    nothing outside, come back unchanged to the last bit. Raises GenPropError for unequal shapes and another kind.
    """
    if kind not in KINDS:
        raise GenPropError(f"Expected {', '.join(KINDS)} as the colour match, got {kind!r}.")
    if frames.ndim != 4 or frames.shape != source.shape:
        raise GenPropError(
            f"Expected a window and its source of one shape [T,3,H,W], got {list(frames.shape)} and "
            f"{list(source.shape)}. Give the source of the same frames, at the working size."
        )
    outside = _outside(mask, frames)
    made, true = _cells(frames), _cells(source)
    if not outside.any() or torch.equal(made * outside, true * outside):
        return frames
    if kind == "local":
        field = _field((true - made) * outside, outside.float())
        return torch.clamp(frames + F.interpolate(field, frames.shape[-2:], mode="bilinear"), 0, 1)
    terms = _terms(made, kind).permute(1, 2, 0, 3, 4)[:, :, outside[:, 0]].double()  # [3,K,N]
    shift = (true - made).movedim(1, 0)[:, outside[:, 0]].double()  # [3,N]
    factors = _fit(terms, shift).float()
    out = torch.empty_like(frames)
    for there, frame in zip(out, frames):  # one at a time: the terms are several times a frame
        correction = torch.einsum("ckhw,ck->chw", _terms(frame[None], kind)[0], factors)
        torch.clamp(frame + correction, 0, 1, out=there)
    return out


def _cells(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, CELL, ceil_mode=True, count_include_pad=False)


def _outside(mask, frames) -> torch.Tensor:
    """bool [T,1,h,w]: the patches that no part of the region, nor its soft edge, touches."""
    if mask is None:
        return torch.ones_like(_cells(frames)[:, :1], dtype=torch.bool)
    mask = F.interpolate(mask.float(), frames.shape[-2:], mode="bilinear").expand(len(frames), -1, -1, -1)
    grown = F.max_pool2d(F.max_pool2d(mask, CELL, ceil_mode=True), 3, stride=1, padding=1)
    return (grown <= 0.5).to(frames.device)


def _field(shift: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """shift [T,3,h,w] where weight [T,1,h,w] is 1 -> the smooth shift [T,3,h,w] of every patch.

    Weighted means over smaller and smaller surroundings, each of what the larger ones left; where a surrounding holds
    no patch that counts, what the larger ones found stays (the pull and push of Gortler et al. 1996).
    """
    field = torch.zeros_like(shift)
    for reach in (None, *REACHES):
        error = shift - field
        size = error.abs().mean(1, keepdim=True)
        sure = weight * (1 + (size / THING).square()).pow(-3)
        if reach is None:
            field = field + (error * sure).sum((2, 3), keepdim=True) / sure.sum((2, 3), keepdim=True).clamp(min=1e-6)
        else:
            near = _blur(sure, reach)
            field = field + _blur(error * sure, reach) / (near + SURE)
    return field


def _blur(x: torch.Tensor, reach: float) -> torch.Tensor:
    """Sum over the surroundings, weighted by a Gaussian of standard deviation `reach` whose peak is 1."""
    steps = torch.arange(-math.ceil(3 * reach), math.ceil(3 * reach) + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (steps / reach).square())
    half, channels = len(steps) // 2, x.shape[1]
    x = F.conv2d(x, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), padding=(0, half), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), padding=(half, 0), groups=channels)


def _terms(frames: torch.Tensor, kind: str) -> torch.Tensor:
    """[T,3,h,w] -> [T,3,K,h,w]: what the correction of a pixel is a sum of; the first is 1."""
    one = torch.ones_like(frames)
    if kind == "offset":
        return one[:, :, None]
    if kind == "gain":
        return torch.stack([one, frames - 0.5], 2)
    height, width = frames.shape[-2:]
    # of the pixels' centres, so that patches and pixels have the same places
    y, x = ((torch.arange(n, device=frames.device) + 0.5) / n * 2 - 1 for n in (height, width))
    y, x = y[:, None] * one, x * one
    return torch.stack([one, x, y, x * x, x * y, y * y], 2)


def _fit(terms: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """terms [3,K,N], shift [3,N] -> the factors [3,K] whose sum of terms is nearest to the shift, robustly."""
    factors = torch.zeros_like(terms[..., 0])
    factors[:, 0] = shift.median(1).values
    if terms.shape[1] == 1:  # one term: the median is the robust answer already
        return factors
    pull = torch.full_like(factors[0], STIFFNESS).diag()
    pull[0, 0] = 0
    for _ in range(ROUNDS):
        error = shift - torch.einsum("ckn,ck->cn", terms, factors)
        scale = (3 * error.abs().median(1, keepdim=True).values).clamp(min=1 / 255)
        weight = (1 + (error / scale).square()).pow(-2)
        weight = weight / weight.sum(1, keepdim=True)
        weighted = terms * weight[:, None]
        factors = torch.linalg.solve(
            weighted @ terms.transpose(1, 2) + pull, torch.einsum("ckn,cn->ck", weighted, shift)
        )
    return factors
