"""Configurations of SVD's parts: those that ship with us, and those read off the shapes of an official file."""
import re
from collections.abc import Mapping

from .errors import GenPropError

HEAD_WIDTH = 64  # of SVD's UNet; the official layout does not store the number of heads, and ComfyUI assumes 64
CLIP_HEADS = {1280: 16, 1024: 16, 1664: 16, 768: 12}  # open_clip's ViT-H, L, bigG and B; for other widths see below
CLIP_HEAD_WIDTH = 64

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}
FEATURE_EXTRACTOR = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}
VAE = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
TINY_VAE = {"_class_name": "AutoencoderTiny", "latent_channels": 4, "scaling_factor": 1.0}
IMAGE_ENCODER = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "attention_dropout": 0.0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}

Shapes = Mapping[str, tuple[int, ...]]


def unet_config(shapes: Shapes) -> dict:
    """The diffusers config of an official UNet. shapes: of its tensors, without `model.diffusion_model.`.

    Raises GenPropError with one line that says what the UNet is, when it is not SVD's.
    """
    if not any(".time_stack." in k for k in shapes):
        raise GenPropError(
            "Expected a Stable Video Diffusion checkpoint, got an image model (its UNet has no temporal layers). "
            "Use an SVD checkpoint (svd, svd_xt or svd_xt_1_1)."
        )
    micro = _shape(shapes, "label_emb.0.0.weight")[1]
    if micro % 3:
        raise GenPropError(
            f"Expected three micro-conditions (SVD), got an embedding of width {micro}: this is SV3D or another "
            "relative of SVD. Use svd, svd_xt or svd_xt_1_1."
        )
    for key, axis, channels in (("input_blocks.0.0.weight", 1, 8), ("out.2.weight", 0, 4)):
        if _shape(shapes, key)[axis] != channels:
            raise GenPropError(
                f"Expected {channels} channels at {key} (SVD), got {_shape(shapes, key)[axis]}. "
                "Use an SVD checkpoint (svd, svd_xt or svd_xt_1_1)."
            )
    widths, layers, depths, block = [], [0], [0], 1
    while any(k.startswith(f"input_blocks.{block}.") for k in shapes):
        if f"input_blocks.{block}.0.op.weight" in shapes:  # a downsampler ends a level
            layers.append(0)
            depths.append(0)
        else:
            width = _shape(shapes, f"input_blocks.{block}.0.out_layers.3.weight")[0]
            widths[len(layers) - 1 :] = [width]
            layers[-1] += 1
            depths[-1] = _count(shapes, rf"input_blocks\.{block}\.1\.transformer_blocks\.(\d+)\.")
        block += 1
    if len(widths) != len(layers):
        raise GenPropError("Expected residual blocks in every level of the UNet, one has none. The file is incomplete.")
    middle = _count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    attention = [bool(d) for d in depths]
    if attention[-1] and depths[-1] != middle or not middle:
        raise GenPropError("Expected transformer layers in the UNet's middle, as many as in its last level. Use SVD.")
    depths = [d or middle for d in depths]  # unused where a level has no attention, but the middle reads the last
    contexts = {s[1] for k, s in shapes.items() if k.endswith("attn2.to_k.weight")}
    if len(contexts) != 1 or any(w % HEAD_WIDTH for w in widths):
        raise GenPropError(
            f"Expected one cross-attention width and level widths in multiples of {HEAD_WIDTH}, got {sorted(contexts)} "
            f"and {widths}. The UNet is not SVD's."
        )
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "in_channels": 8,
        "out_channels": 4,
        "sample_size": 96,
        "block_out_channels": widths,
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "num_attention_heads": [w // HEAD_WIDTH for w in widths],
        "cross_attention_dim": contexts.pop(),
        "addition_time_embed_dim": micro // 3,
        "projection_class_embeddings_input_dim": micro,
        "down_block_types": [("CrossAttn" if a else "") + "DownBlockSpatioTemporal" for a in attention],
        "up_block_types": [("CrossAttn" if a else "") + "UpBlockSpatioTemporal" for a in reversed(attention)],
    }


def vae_config(shapes: Shapes) -> dict:
    """The diffusers config of an official temporal VAE or of TAESD. shapes: without `first_stage_model.`."""
    if "taesd_decoder.1.weight" in shapes:
        channels = shapes["taesd_decoder.1.weight"][1]
        if channels != 4:
            raise GenPropError(
                f"Expected SD 1.5's TAESD with 4 latent channels (SVD's too), got {channels}. Use taesd."
            )
        return dict(TINY_VAE)
    if "decoder.mid.block_1.mix_factor" not in shapes:
        if "decoder.conv_in.weight" in shapes:
            raise GenPropError(
                "Expected SVD's temporal VAE decoder, got the frame-wise image decoder (an svd_image_decoder file). "
                "Use svd, svd_xt or svd_xt_1_1."
            )
        raise GenPropError(
            "Expected SVD's VAE decoder (first_stage_model), but it is missing. Use the whole checkpoint."
        )
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        **VAE,
        "block_out_channels": [_shape(shapes, f"encoder.down.{i}.block.0.conv2.weight")[0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
    }


def image_encoder_config(shapes: Shapes) -> dict:
    """The transformers config of open_clip's visual tower. shapes: without `conditioner...visual.`.

    Widths other than open_clip's own get heads of width 64; the shapes do not tell, a config stored in the file does.
    """
    width, _, patch, _ = _shape(shapes, "conv1.weight")
    grid = round((_shape(shapes, "positional_embedding")[0] - 1) ** 0.5)
    return {
        **IMAGE_ENCODER,
        "hidden_size": width,
        "image_size": grid * patch,
        "intermediate_size": _shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_attention_heads": CLIP_HEADS.get(width) or max(1, width // CLIP_HEAD_WIDTH),
        "num_hidden_layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
        "patch_size": patch,
        "projection_dim": _shape(shapes, "proj")[1],
    }


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise GenPropError(
            f"Expected {key} of a Stable Video Diffusion checkpoint, but it is missing. Use the whole file."
        )
    return shapes[key]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number the pattern's group takes among the keys, 0 when nothing matches."""
    found = [int(m[1]) for k in shapes if (m := re.match(pattern, k))]
    return max(found) + 1 if found else 0
