"""Random-weight SVD checkpoints in the official single-file layout, of any shape, written tensor by tensor.

The names and shapes are built up here as Stability's own modules have them, without the key maps under test.
"""
import zlib
from dataclasses import dataclass, replace

import torch

from genprop_core.lazy_tensors import LazyTensor, write_lazy

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_MODEL = "conditioner.embedders.0.open_clip.model."
CLIP, COPY = CLIP_MODEL + "visual.", "conditioner.embedders.3.encoder."


@dataclass(frozen=True)
class Shape:
    """Widths multiples of 64 (UNet) and 32 (VAE). attention: per level, whether it has transformers."""

    widths: tuple = (64, 64, 128)
    layers: int = 1
    depth: int = 1
    attention: tuple = (True, True, False)
    context: int = 32  # width of the cross-attention and of CLIP's projection
    micro: int = 256
    vae_widths: tuple = (32, 64)
    tiny_vae: bool = False
    clip_width: int = 64
    clip_layers: int = 2
    clip_mlp: int = 128
    patch: int = 14
    image: int = 224


TINY = Shape()
FULL = Shape(
    (320, 640, 1280, 1280), 2, 1, (True, True, True, False), 1024, 256, (128, 256, 512, 512), False, 1280, 32, 5120
)


def _affine(name, *shape, bias=True):
    return {f"{name}.weight": shape} | ({f"{name}.bias": (shape[0],)} if bias else {})


def _norm(name, width):
    return _affine(name, width)


def _res_block(name, width_in, width_out, emb, kernel=(3, 3)):
    ones = (1,) * len(kernel)
    out = {
        **_norm(f"{name}.in_layers.0", width_in),
        **_affine(f"{name}.in_layers.2", width_out, width_in, *kernel),
        **_norm(f"{name}.out_layers.0", width_out),
        **_affine(f"{name}.out_layers.3", width_out, width_out, *kernel),
    }
    if emb:
        out |= _affine(f"{name}.emb_layers.1", width_out, emb)
    if width_in != width_out:
        out |= _affine(f"{name}.skip_connection", width_out, width_in, *ones)
    return out


def _video_res_block(name, width_in, width_out, emb):
    return {
        **_res_block(name, width_in, width_out, emb),
        **_res_block(f"{name}.time_stack", width_out, width_out, emb, (3, 1, 1)),
        f"{name}.time_mixer.mix_factor": (1,),
    }


def _feed_forward(name, width):
    return _affine(f"{name}.net.0.proj", 8 * width, width) | _affine(f"{name}.net.2", width, 4 * width)


def _transformer(name, width, context, depth):
    out = {
        **_norm(f"{name}.norm", width),
        **_affine(f"{name}.proj_in", width, width),
        **_affine(f"{name}.proj_out", width, width),
        **_affine(f"{name}.time_pos_embed.0", 4 * width, width),
        **_affine(f"{name}.time_pos_embed.2", width, 4 * width),
        f"{name}.time_mixer.mix_factor": (1,),
    }
    for i in range(depth):
        for stack in ("transformer_blocks", "time_stack"):
            block = f"{name}.{stack}.{i}"
            for attention, keys in (("attn1", width), ("attn2", context)):
                out |= _affine(f"{block}.{attention}.to_q", width, width, bias=False)
                out |= _affine(f"{block}.{attention}.to_k", width, keys, bias=False)
                out |= _affine(f"{block}.{attention}.to_v", width, keys, bias=False)
                out |= _affine(f"{block}.{attention}.to_out.0", width, width)
            for norm in ("norm1", "norm2", "norm3") + (("norm_in",) if stack == "time_stack" else ()):
                out |= _norm(f"{block}.{norm}", width)
            out |= _feed_forward(f"{block}.ff", width)
        out |= _feed_forward(f"{name}.time_stack.{i}.ff_in", width)
    return out


def unet_shapes(shape: Shape) -> dict:
    """Names and shapes of `model.diffusion_model`, by walking the UNet as it is built."""
    first, emb = shape.widths[0], 4 * shape.widths[0]
    out = {
        **_affine("time_embed.0", emb, first),
        **_affine("time_embed.2", emb, emb),
        **_affine("label_emb.0.0", emb, 3 * shape.micro),
        **_affine("label_emb.0.2", emb, emb),
        **_affine("input_blocks.0.0", first, 8, 3, 3),
        **_norm("out.0", first),
        **_affine("out.2", 4, first, 3, 3),
    }
    now, block, skips = first, 1, [first]
    for level, width in enumerate(shape.widths):
        for _ in range(shape.layers):
            out |= _video_res_block(f"input_blocks.{block}.0", now, width, emb)
            if shape.attention[level]:
                out |= _transformer(f"input_blocks.{block}.1", width, shape.context, shape.depth)
            now, block = width, block + 1
            skips.append(now)
        if level < len(shape.widths) - 1:
            out |= _affine(f"input_blocks.{block}.0.op", now, now, 3, 3)
            block += 1
            skips.append(now)
    out |= _video_res_block("middle_block.0", now, now, emb)
    out |= _transformer("middle_block.1", now, shape.context, shape.depth)
    out |= _video_res_block("middle_block.2", now, now, emb)
    block = 0
    for level in reversed(range(len(shape.widths))):
        for layer in range(shape.layers + 1):
            out |= _video_res_block(f"output_blocks.{block}.0", now + skips.pop(), shape.widths[level], emb)
            now, place = shape.widths[level], 1
            if shape.attention[level]:
                out |= _transformer(f"output_blocks.{block}.1", now, shape.context, shape.depth)
                place = 2
            if level and layer == shape.layers:
                out |= _affine(f"output_blocks.{block}.{place}.conv", now, now, 3, 3)
            block += 1
    return out


def _vae_block(name, width_in, width_out, temporal):
    out = {
        **_norm(f"{name}.norm1", width_in),
        **_affine(f"{name}.conv1", width_out, width_in, 3, 3),
        **_norm(f"{name}.norm2", width_out),
        **_affine(f"{name}.conv2", width_out, width_out, 3, 3),
    }
    if width_in != width_out:
        out |= _affine(f"{name}.nin_shortcut", width_out, width_in, 1, 1)
    if temporal:
        out |= _res_block(f"{name}.time_stack", width_out, width_out, 0, (3, 1, 1)) | {f"{name}.mix_factor": (1,)}
    return out


def _vae_half(name, widths, temporal):
    width = widths[-1]
    out = _vae_block(f"{name}.mid.block_1", width, width, temporal) | _norm(f"{name}.mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        out |= _affine(f"{name}.mid.attn_1.{part}", width, width, 1, 1)
    return out | _vae_block(f"{name}.mid.block_2", width, width, temporal)


def vae_shapes(widths, temporal=True) -> dict:
    """Names and shapes of the VAE; not temporal: the image VAE, which has quant_conv and post_quant_conv."""
    last = len(widths) - 1
    out = _affine("encoder.conv_in", widths[0], 3, 3, 3) | _vae_half("encoder", widths, False)
    now = widths[0]
    for level, width in enumerate(widths):
        for block in range(2):
            out |= _vae_block(f"encoder.down.{level}.block.{block}", now, width, False)
            now = width
        if level < last:
            out |= _affine(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    out |= _norm("encoder.norm_out", now) | _affine("encoder.conv_out", 8, now, 3, 3)
    out |= _affine("decoder.conv_in", now, 4, 3, 3) | _vae_half("decoder", widths, temporal)
    for level in reversed(range(len(widths))):
        for block in range(3):
            out |= _vae_block(f"decoder.up.{level}.block.{block}", now, widths[level], temporal)
            now = widths[level]
        if level:
            out |= _affine(f"decoder.up.{level}.upsample.conv", now, now, 3, 3)
    out |= _norm("decoder.norm_out", now) | _affine("decoder.conv_out", 3, now, 3, 3)
    if temporal:
        return out | _affine("decoder.conv_out.time_mix_conv", 3, 3, 3, 1, 1)
    return out | _affine("quant_conv", 8, 8, 1, 1) | _affine("post_quant_conv", 4, 4, 1, 1)


def tiny_vae_shapes() -> dict:
    """TAESD's two halves as ComfyUI names them: plain sequences, 3x3 convolutions of 64 channels."""

    def sequence(name, layers):
        out = {}
        for i, layer in enumerate(layers):
            if layer == "block":
                for j in (0, 2, 4):
                    out |= _affine(f"{name}.{i}.conv.{j}", 64, 64, 3, 3)
            elif layer:
                out |= _affine(f"{name}.{i}", layer[0], layer[1], 3, 3, bias=len(layer) == 2)
        return out

    down, inner = (64, 64, "no bias"), ["block"] * 3
    encoder = [(64, 3), "block", down, *inner, down, *inner, down, *inner, (4, 64)]
    decoder = [None, (64, 4), None, *inner, None, down, *inner, None, down, *inner, None, down, "block", (3, 64)]
    scale = {"vae_scale": (), "vae_shift": ()}
    return sequence("taesd_encoder", encoder) | sequence("taesd_decoder", decoder) | scale


def clip_shapes(shape: Shape) -> dict:
    """Names and shapes of open_clip's visual tower."""
    width = shape.clip_width
    out = {
        "class_embedding": (width,),
        "positional_embedding": ((shape.image // shape.patch) ** 2 + 1, width),
        "proj": (width, shape.context),
        **_affine("conv1", width, 3, shape.patch, shape.patch, bias=False),
        **_norm("ln_pre", width),
        **_norm("ln_post", width),
    }
    for i in range(shape.clip_layers):
        layer = f"transformer.resblocks.{i}"
        out |= _norm(f"{layer}.ln_1", width) | _norm(f"{layer}.ln_2", width)
        out |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        out |= _affine(f"{layer}.attn.out_proj", width, width)
        out |= _affine(f"{layer}.mlp.c_fc", shape.clip_mlp, width) | _affine(
            f"{layer}.mlp.c_proj", width, shape.clip_mlp
        )
    return out


def official_shapes(shape: Shape, optional: bool = True) -> dict:
    """Every key of an official file with its shape; optional: the second VAE copy and CLIP's text leftovers too."""
    vae = tiny_vae_shapes() if shape.tiny_vae else vae_shapes(shape.vae_widths)
    parts = [(UNET, unet_shapes(shape)), (VAE, vae), (CLIP, clip_shapes(shape))]
    if optional:
        width, vocabulary = shape.context, 49408 if shape == FULL else 16
        text = {"token_embedding.weight": (vocabulary, width), "positional_embedding": (77, width), "logit_scale": ()}
        text |= _norm("ln_final", width) | {"text_projection": (width, width)}
        parts += [(COPY, vae_shapes(shape.vae_widths, temporal=False)), (CLIP_MODEL, text)]
    return {prefix + k: s for prefix, shapes in parts for k, s in shapes.items()}


def random_tensor(key: str, shape: tuple, dtype=torch.float32) -> torch.Tensor:
    """The same values for a key every time, of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    values = torch.randn(shape, generator=generator)
    if key.endswith("vae_scale"):
        values.fill_(0.18215)
    elif key.endswith("vae_shift"):
        values.zero_()
    elif len(shape) > 1:
        values /= max(1, values[0].numel()) ** 0.5
    elif key.endswith("bias"):
        values *= 0.05
    elif key.endswith("weight"):  # of a norm
        values.mul_(0.1).add_(1)
    return values.to(dtype)


def write_checkpoint(path, shape: Shape = TINY, dtype=torch.float32, optional=True, change=None) -> dict:
    """Writes the file, one tensor in memory at a time; returns its keys and shapes.

    The second VAE copy is what official files are read to have: the encoder before its quant_conv was folded into
    first_stage_model. change(tensors): may edit the dict of unread tensors before it is written.
    """
    shapes = official_shapes(shape, optional)

    def lazy(key, source=None):
        return LazyTensor(shapes[key], dtype, lambda: random_tensor(source or key, shapes[key], dtype))

    tensors = {k: lazy(k) for k in shapes}
    if optional and not shape.tiny_vae:
        for key in shapes:
            if key.startswith(COPY + "encoder.") and ".conv_out." not in key:
                tensors[key] = lazy(key, VAE + key.removeprefix(COPY))
        names = [
            COPY + n
            for n in ("encoder.conv_out.weight", "encoder.conv_out.bias", "quant_conv.weight", "quant_conv.bias")
        ]
        weight, bias, matrix, shift = (random_tensor(n, shapes[n], dtype).double() for n in names)
        folded = torch.nn.functional.conv2d(weight.transpose(0, 1), matrix).transpose(0, 1)
        tensors[VAE + "encoder.conv_out.weight"] = LazyTensor.of(folded.to(dtype))
        tensors[VAE + "encoder.conv_out.bias"] = LazyTensor.of((matrix[:, :, 0, 0] @ bias + shift).to(dtype))
    if change is not None:
        change(tensors)
    write_lazy(path, tensors, {"format": "pt"})
    return {k: t.shape for k, t in tensors.items()}


def with_tiny_vae(shape: Shape = TINY) -> Shape:
    return replace(shape, tiny_vae=True)
