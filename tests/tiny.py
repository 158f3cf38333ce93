"""Small random SVD-shaped bases for tests."""

import torch

from genprop_core.config import BaseShape

SHAPE = BaseShape((32, 64, 64), 2, (1, 2, 2), 32, 32)


def tiny_unet(shape=SHAPE, seed=0):
    from diffusers import UNetSpatioTemporalConditionModel

    torch.manual_seed(seed)
    unet = UNetSpatioTemporalConditionModel(**shape.unet_config(), sample_size=8, num_frames=4)
    return unet.eval().requires_grad_(False)


def tiny_image_encoder(seed=0, projection=32):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=32,
        projection_dim=projection,
    )
    return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def tiny_temporal_vae(seed=0):
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(seed)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1
    )
    return vae.eval().requires_grad_(False)


def tiny_condition(batch=1, frames=4, size=8, seed=1, width=32):
    from genprop_core.conditioning import Condition, micro_conditions

    g = torch.Generator().manual_seed(seed)
    key = torch.randn(batch, 1, 4, size, size, generator=g).expand(-1, frames, -1, -1, -1) * 5
    return Condition(
        image_latents=key,
        clip=torch.randn(batch, 1, width, generator=g),
        micro=micro_conditions(7, 127, 0.02, batch),
        task=torch.zeros(batch, dtype=torch.long),
        source=torch.randn(batch, frames, 4, size, size, generator=g),
        keyframe=key,
    )
