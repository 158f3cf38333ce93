"""The Selective Content Encoder: a trainable copy of the UNet's first down blocks that reads the source video."""

import copy
from contextlib import nullcontext

import torch
from torch import nn

from . import edm
from .config import AdapterConfig
from .epsilon import set_groupnorm_eps
from .feed_forward import feed_forward_in_parts


def _skeleton(config: AdapterConfig):
    """An SVD UNet of the configured shape without memory (meta device), to take the copied parts from."""
    from diffusers import UNetSpatioTemporalConditionModel

    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**config.base.unet_config())
    set_groupnorm_eps(unet)
    return unet


class SelectiveContentEncoder(nn.Module):
    """conv_in, the first N down blocks and the time embedding of an SVD UNet, plus an embedding per task.

    Its input is `cat[scaled source latents, unscaled keyframe latents]`: what the UNet sees at the last, nearly
    noise-free step, so copied weights start in distribution. In the fused form the UNet's own first features join
    through a zero-initialised projection.
    """

    def __init__(self, config: AdapterConfig, unet=None):
        """Copies the weights of `unet`; without one, the weights are empty, to be loaded."""
        super().__init__()
        self.config = config
        donor = _skeleton(config) if unet is None else unet
        own = copy.deepcopy if unet is not None else (lambda module: module.to_empty(device="cpu"))
        self.time_proj = copy.deepcopy(donor.time_proj)
        self.add_time_proj = copy.deepcopy(donor.add_time_proj)
        self.time_embedding = own(donor.time_embedding)
        self.add_embedding = own(donor.add_embedding)
        self.conv_in = own(donor.conv_in)
        self.down_blocks = nn.ModuleList(own(block) for block in donor.down_blocks[: config.num_blocks])
        width = config.base.block_out_channels[0]
        self.task_embedding = nn.Embedding(len(config.tasks), 4 * width)
        nn.init.zeros_(self.task_embedding.weight)
        if config.sce == "fused":
            self.fuse = nn.Conv2d(width, width, 1)
            nn.init.zeros_(self.fuse.weight)
            nn.init.zeros_(self.fuse.bias)
        self.requires_grad_(True)
        self.freeze_dead()

    def freeze_dead(self):
        """With one CLIP token the softmax of the cross-attention is 1: query, key and their norm get no gradient."""
        for name, parameter in self.named_parameters():
            if (
                any(part in name for part in (".attn2.to_q.", ".attn2.to_k.", ".norm2."))
                and "transformer_blocks" in name
            ):
                parameter.requires_grad_(False)

    def forward(self, source, keyframe, clip_embedding, micro, task, first_features=None, c_noise=None):
        """Features at every tap, each [B*T,C,h,w].

        source: scaled latents [B,T,4,h,w]; keyframe: unscaled latents [B,T,4,h,w]; clip_embedding [B,1,D];
        micro [B,3] (fps - 1, motion bucket, noise augmentation); task: indices [B].
        first_features [B*T,C,h,w] and c_noise [B]: the fused form's extra input and noise level.
        """
        batch, frames = source.shape[:2]
        dtype = self.conv_in.weight.dtype
        if c_noise is None:
            c_noise = edm.scalings(torch.tensor(edm.SIGMA_MIN))[3].to(source.device).expand(batch)
        emb = self.time_embedding(self.time_proj(c_noise.expand(batch)).to(dtype))
        ids = self.add_time_proj(micro.flatten()).reshape(batch, -1)
        emb = emb + self.add_embedding(ids.to(dtype)) + self.task_embedding(task)
        emb = emb.repeat_interleave(frames, dim=0)  # [B,E] -> [B*T,E]
        context = clip_embedding.to(dtype).repeat_interleave(frames, dim=0)  # [B,1,D] -> [B*T,1,D]
        hidden = self.conv_in(torch.cat([source, keyframe], dim=2).flatten(0, 1).to(dtype))
        if first_features is not None:
            hidden = hidden + self.fuse(first_features)
        indicator = torch.zeros(batch, frames, dtype=dtype, device=source.device)
        features = [hidden]
        # in training, blocks may be computed again in the backward pass, and must then go the same way
        with nullcontext() if torch.is_grad_enabled() else feed_forward_in_parts(self):
            for block in self.down_blocks:
                extra = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
                hidden, outputs = block(hidden_states=hidden, temb=emb, image_only_indicator=indicator, **extra)
                features += outputs
        return features
