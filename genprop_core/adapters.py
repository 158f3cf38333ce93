"""Everything that is trained: SCE, injection layers, selection and mask decoder in one plain nn.Module."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import edm
from .conditioning import SCALING
from .config import AdapterConfig, BaseShape
from .errors import GenPropError
from .sce import SelectiveContentEncoder

GATE_TERMS = 8
NEAR = 3  # side of the window, in latent pixels, within which something near was edited
FOUND, MISSED = 0.9, 0.6  # of a known region: from there on the selection found it by itself, up to there missed it
GAIN_SPEED = 10.0  # a gain has to go from 0 to 1, much further than a weight


def with_region(edited: torch.Tensor, region: torch.Tensor | None) -> torch.Tensor:
    """Probability [...,1,h,w] that a place is edited, with what is known of it: `region`, of the same shape, or None.

    region: 1 where the picture surely is edited, -1 where it surely is not, 0 where nothing is known. Where the
    selection (or the mask decoder) has found the most of what is edited in a frame by itself, that is left to it: its
    rims are finer.
    """
    if region is None:
        return edited
    kept, region = ((sign * region).clamp(min=0).to(edited) for sign in (-1, 1))
    sums = [v.flatten(-3).sum(-1)[..., None, None, None] for v in (torch.minimum(edited, region), region)]
    found = sums[0] / sums[1].clamp(min=1e-6)
    missed = ((FOUND - found) / (FOUND - MISSED)).clamp(0, 1)
    return torch.minimum(torch.maximum(edited, missed * region), 1 - kept)


def norm_groups(channels: int) -> int:
    """Groups of 16 channels or more: with 2 channels a group, GroupNorm would wipe out colour."""
    return max(g for g in range(1, min(32, max(1, channels // 16)) + 1) if channels % g == 0)


class Injection(nn.Module):
    """Zero-initialised 1x1x1 convolution, times a learned gate of the noise level that starts at 1.

    Frames are the batch, so the convolution is a 1x1 over [B*T,C,h,w]. Only the convolution starts at zero (one zero
    in the chain, never two): it moves at the first optimiser step, gate and SCE at the second. normed: a GroupNorm
    before the convolution.
    """

    def __init__(self, channels: int, init_std: float = 0.0, normed: bool = False):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels), channels) if normed else nn.Identity()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.gate_weight = nn.Parameter(torch.zeros(channels, GATE_TERMS))
        nn.init.normal_(self.conv.weight, std=init_std) if init_std else nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """[B*T,C,h,w] -> what is injected before the gate, same shape. Independent of the noise level."""
        return self.conv(self.norm(feature))

    def gate(self, c_noise: torch.Tensor) -> torch.Tensor:
        """[B,C]: 1 + a cosine series in c_noise, scaled so that sampling's noise levels span [0,1]."""
        low, high = 0.25 * math.log(edm.SIGMA_MIN), 0.25 * math.log(edm.SIGMA_MAX)
        u = (c_noise.float() - low) / (high - low)
        terms = torch.cos(math.pi * u[:, None] * torch.arange(GATE_TERMS, device=u.device))
        return 1 + terms.to(self.gate_weight.dtype) @ self.gate_weight.T


class ShownSource(nn.Module):
    """Shows the UNet the source where it is kept: what its first layer would give more for that image condition.

    The first layer is a convolution, linear in the image condition, so the injection that turns the keyframe into
    `keep * source + (1 - keep) * keyframe` is that convolution of `keep * (source - keyframe)`. The convolution is the
    base's own and stays so; what is learned is its gain, from 0. It stands where the SCE's first feature would be
    injected: that is linear in the source too, and learns the same, slowly and never quite.
    """

    def __init__(self, width: int, conv_in=None):
        """conv_in: the UNet's; without it the weights are empty, to be loaded."""
        super().__init__()
        self.conv = nn.Conv2d(4, width, 3, padding=1, bias=False)
        self.conv.requires_grad_(False)
        self.gain = nn.Parameter(torch.zeros(1))
        if conv_in is not None:
            if conv_in.weight.is_meta:  # sizes alone
                self.conv.to("meta")
            with torch.no_grad():
                self.conv.weight.copy_(conv_in.weight[:, 4:])

    def forward(self, source, keyframe, keep) -> torch.Tensor:
        """source: scaled latents [B,T,4,h,w]; keyframe: unscaled, same shape; keep: [B*T,1,h,w] in [0,1].

        Returns [B*T,C,h,w], to be added after conv_in.
        """
        difference = (source.float() / SCALING - keyframe.float()).flatten(0, 1)
        return GAIN_SPEED * self.gain * self.conv((keep * difference).to(self.conv.weight.dtype))

    @staticmethod
    def without(drop, shown: torch.Tensor, num_frames: int) -> torch.Tensor:
        """`forward`'s result once for every sample in the call, 0 where `drop` says so; as it is without a `drop`."""
        if drop is None:
            return shown
        rows = shown.unflatten(0, (-1, num_frames))
        rows = rows.repeat(len(drop) // len(rows), 1, 1, 1, 1)
        return (rows * edm.expand(~drop, rows)).flatten(0, 1)


class Selection(nn.Module):
    """Which part of the source is kept: one map in [0,1], close to 1 everywhere at the start.

    It reads the SCE's features at all taps. The injections at full resolution come from its first layers, which cannot
    know yet what was edited; the map brings them what the deeper layers found out. What is kept is shown, if the source
    is; then the other injections are multiplied by `near`, since far from the edit they could only disturb what is
    shown. Without the shown source they bring everything, and are multiplied by the map itself.
    """

    HIDDEN = 32

    def __init__(self, widths: list[int]):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(norm_groups(width), width) for width in widths)
        self.inputs = nn.ModuleList(nn.Conv2d(width, self.HIDDEN, 1) for width in widths)
        self.hidden = nn.Conv2d(self.HIDDEN, self.HIDDEN, 3, padding=1)
        self.out = nn.Conv2d(self.HIDDEN, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, -3.0)

    @staticmethod
    def near(keep: torch.Tensor) -> torch.Tensor:
        """[B*T,1,h,w], what is kept -> the same shape: 1 where something within 1 latent pixel was edited."""
        return F.max_pool2d(1 - keep, NEAR, 1, NEAR // 2)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Features at every tap [B*T,C,h',w'] -> logits of the edited region [B*T,1,h,w], at the first tap's size."""
        size, hidden = features[0].shape[-2:], 0
        for feature, norm, layer in zip(features, self.norms, self.inputs, strict=True):
            hidden = hidden + F.interpolate(layer(norm(feature)), size=size, mode="bilinear")
        return self.out(F.silu(self.hidden(F.silu(hidden))))


class MaskPredictionDecoder(nn.Module):
    """Predicts the edited region from the penultimate up block's output; any number of frames, any size."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels), channels)
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, features: torch.Tensor, num_frames: int) -> torch.Tensor:
        """[B*T,C,h,w] -> logits [B,T,1,h,w]."""
        hidden = F.silu(self.hidden(self.norm(features.to(self.out.weight.dtype))))
        return self.out(hidden).unflatten(0, (-1, num_frames))


class GenPropAdapters(nn.Module):
    """SCE + injection layers + selection + shown source + MPD for one base.

    Build with `from_unet` (copies the base's weights) or let `checkpoint.load_adapters` fill an empty one.
    """

    def __init__(self, config: AdapterConfig, unet=None):
        super().__init__()
        self.config = config
        self.sce = SelectiveContentEncoder(config, unet)
        # The fused SCE has a zero-initialised projection already, so its injections start small instead of zero.
        std = 1e-3 if config.sce == "fused" else 0.0
        widths, active = config.tap_widths(), config.active_taps()
        active[0] &= not config.show_source
        self.injections = nn.ModuleList(
            Injection(width, std, config.injection_norm) if on else nn.Identity() for width, on in zip(widths, active)
        )
        self.selection = Selection(widths) if config.selection else None
        conv_in = None if unet is None else unet.conv_in
        self.shown = ShownSource(widths[0], conv_in) if config.show_source else None
        self.mpd = MaskPredictionDecoder(config.base.block_out_channels[1])

    @classmethod
    def from_unet(cls, unet, **settings) -> "GenPropAdapters":
        """Fresh adapters for a diffusers SVD UNet; settings are AdapterConfig's (num_blocks, sce, taps, tasks, ...)."""
        return cls(AdapterConfig(base=BaseShape.from_unet(unet), **settings), unet)

    def task_index(self, task: str) -> int:
        if task not in self.config.tasks:
            raise GenPropError(f"Expected a task these adapters know ({', '.join(self.config.tasks)}), got {task!r}.")
        return self.config.tasks.index(task)

    def encode(self, source, keyframe, clip_embedding, micro, task, first_features=None, c_noise=None, region=None):
        """What is injected at every tap before the gate: a list of [B*T,C,h,w], None where a tap is not used.

        Arguments as in `SelectiveContentEncoder.forward`. region: [B,T,1,h,w] in [-1,1], where the
        picture is known to be edited or not: see `with_region`. In the static form this runs once per window.
        """
        inputs = (source, keyframe, clip_embedding, micro, task, first_features, c_noise)
        return self.encode_and_select(*inputs, region=region)[0]

    def encode_and_select(self, *inputs, region=None):
        """`encode`'s list, and the selection's own logits of the edited region [B,T,1,h,w], None without one."""
        features = self.sce(*inputs)
        injected = [
            layer(feature) if isinstance(layer, Injection) else None
            for layer, feature in zip(self.injections, features, strict=True)
        ]
        if self.selection is None:
            return injected, None
        logits = self.selection(features)
        keep = 1 - with_region(logits.sigmoid(), None if region is None else region.flatten(0, 1))
        counts = keep if self.shown is None else self.selection.near(keep)
        injected = [f if f is None else f * F.interpolate(counts, size=f.shape[-2:], mode="area") for f in injected]
        if self.shown is not None:
            injected[0] = self.shown(*inputs[:2], keep)
        return injected, logits.unflatten(0, (-1, inputs[0].shape[1]))

    def gated(self, injected, c_noise: torch.Tensor, num_frames: int, strength: float = 1.0, drop=None):
        """The tensors to add at this noise level: injected * gate(c_noise) * strength. c_noise is [B].

        drop: optional bools, one for each sample in the call, B or a multiple of it: True where the UNet's image
        condition is zeroed. The source is not shown there: there is no keyframe that it could take the place of.
        """
        out = []
        for layer, feature in zip(self.injections, injected, strict=True):
            if feature is None:
                out.append(None)
            elif isinstance(layer, Injection):
                gate = (strength * layer.gate(c_noise)).to(feature.dtype).repeat_interleave(num_frames, dim=0)
                out.append(feature * gate[:, :, None, None])
            else:  # the shown source, at every noise level alike
                out.append(strength * ShownSource.without(drop, feature, num_frames))
        return out

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """Makes `weight` times what is injected, at strength 1, the adapters' own."""
        factors = [p for layer in self.injections if isinstance(layer, Injection) for p in layer.conv.parameters()]
        for parameter in factors if self.shown is None else [*factors, self.shown.gain]:
            parameter.mul_(weight)

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]
