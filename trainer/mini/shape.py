"""The mini's shape: SVD's blocks at widths a CPU can train."""

import torch

from genprop_core.config import BaseShape

SHAPE = BaseShape(
    block_out_channels=(64, 64, 128),
    layers_per_block=1,
    num_attention_heads=(1, 1, 2),
    cross_attention_dim=64,
    addition_time_embed_dim=256,
)
CLIP = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": 224,
    "patch_size": 32,
    "projection_dim": 64,
    "num_channels": 3,
    "hidden_act": "gelu",
}


def new_unet(seed=0):
    from diffusers import UNetSpatioTemporalConditionModel

    from genprop_core.epsilon import set_groupnorm_eps

    torch.manual_seed(seed)
    unet = UNetSpatioTemporalConditionModel(**SHAPE.unet_config(), sample_size=16, num_frames=8)
    set_groupnorm_eps(unet)
    return unet


def new_image_encoder(seed=0):
    """A CLIP image encoder with fixed random weights: a random feature of the picture, not a trained one.

    Weights are orthogonal, so that different pictures get clearly different embeddings.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    generator = torch.Generator().manual_seed(seed)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                # in float64: rounding, which depends on the machine, is lost when the result is stored
                gaussian = torch.randn(parameter.shape, generator=generator).double()
                rows = gaussian.flatten(1)
                q = torch.linalg.qr(rows if rows.shape[0] >= rows.shape[1] else rows.T)[0]
                parameter.copy_((q if rows.shape[0] >= rows.shape[1] else q.T).reshape(parameter.shape))
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.zero_()
    return model.eval().requires_grad_(False)
