"""Everything that is trained: SCE, injection layers and mask decoder in one plain nn.Module."""

import math

import torch
from torch import nn

from . import edm
from .config import AdapterConfig, BaseShape
from .errors import GenPropError
from .sce import SelectiveContentEncoder

GATE_TERMS = 8


def norm_groups(channels: int) -> int:
    """Groups of 16 channels or more: with 2 channels a group, GroupNorm would wipe out colour."""
    return max(g for g in range(1, min(32, max(1, channels // 16)) + 1) if channels % g == 0)


class Injection(nn.Module):
    """GroupNorm -> zero-initialised 1x1x1 convolution, times a learned gate of the noise level that starts at 1.

    Frames are the batch, so the convolution is a 1x1 over [B*T,C,h,w]. Only the convolution starts at zero (one zero
    in the chain, never two): it moves at the first optimiser step, gate, norm and SCE at the second.
    """

    def __init__(self, channels: int, init_std: float = 0.0):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels), channels)
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


class MaskPredictionDecoder(nn.Module):
    """Predicts the edited region from the penultimate up block's output; any number of frames, any size."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels), channels)
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, features: torch.Tensor, num_frames: int) -> torch.Tensor:
        """[B*T,C,h,w] -> logits [B,T,1,h,w]."""
        hidden = nn.functional.silu(self.hidden(self.norm(features.to(self.out.weight.dtype))))
        return self.out(hidden).unflatten(0, (-1, num_frames))


class GenPropAdapters(nn.Module):
    """SCE + injection layers + MPD for one base.

    Build with `from_unet` (copies the base's weights) or let `checkpoint.load_adapters` fill an empty one.
    """

    def __init__(self, config: AdapterConfig, unet=None):
        super().__init__()
        self.config = config
        self.sce = SelectiveContentEncoder(config, unet)
        # The fused SCE has a zero-initialised projection already, so its injections start small instead of zero.
        std = 1e-3 if config.sce == "fused" else 0.0
        pairs = zip(config.tap_widths(), config.active_taps())
        self.injections = nn.ModuleList(Injection(width, std) if active else nn.Identity() for width, active in pairs)
        self.mpd = MaskPredictionDecoder(config.base.block_out_channels[1])

    @classmethod
    def from_unet(cls, unet, **settings) -> "GenPropAdapters":
        """Fresh adapters for a diffusers SVD UNet; settings are AdapterConfig's (num_blocks, sce, taps, tasks)."""
        return cls(AdapterConfig(base=BaseShape.from_unet(unet), **settings), unet)

    def task_index(self, task: str) -> int:
        if task not in self.config.tasks:
            raise GenPropError(f"Expected a task these adapters know ({', '.join(self.config.tasks)}), got {task!r}.")
        return self.config.tasks.index(task)

    def encode(self, source, keyframe, clip_embedding, micro, task, first_features=None, c_noise=None):
        """What is injected at every tap before the gate: a list of [B*T,C,h,w], None where a tap is not used.

        Arguments as in `SelectiveContentEncoder.forward`. In the static form this runs once per window.
        """
        features = self.sce(source, keyframe, clip_embedding, micro, task, first_features, c_noise)
        return [
            layer(feature) if isinstance(layer, Injection) else None
            for layer, feature in zip(self.injections, features, strict=True)
        ]

    def gated(self, injected, c_noise: torch.Tensor, num_frames: int, strength: float = 1.0):
        """The tensors to add at this noise level: injected * gate(c_noise) * strength. c_noise is [B]."""
        out = []
        for layer, feature in zip(self.injections, injected, strict=True):
            if feature is None:
                out.append(None)
                continue
            gate = (strength * layer.gate(c_noise)).to(feature.dtype).repeat_interleave(num_frames, dim=0)
            out.append(feature * gate[:, :, None, None])
        return out

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]
