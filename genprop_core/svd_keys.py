"""The keys of Stable Video Diffusion in its two layouts: the official single file and the diffusers folder.

The official names are Stability's (`sgm`), the diffusers names those of UNetSpatioTemporalConditionModel,
AutoencoderKLTemporalDecoder, AutoencoderTiny and CLIPVisionModelWithProjection. Each diffusers key is translated by the
tables below; nothing depends on widths, so every SVD-shaped model is covered. The official layout's own facts were read
from Stability's published model code and from how ComfyUI loads it.
"""
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from .errors import GenPropError

# --- which keys an official file has ---------------------------------------------------------------------------------
REQUIRED = {  # component -> prefix of its keys
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "image_encoder": "conditioner.embedders.0.open_clip.model.visual.",
}
CONDITION_ENCODER = "conditioner.embedders.3.encoder."  # another copy of the VAE, as it was before SVD, with quant_conv
OPTIONAL = (  # pattern -> what it is; may be absent, is not loaded
    (r"conditioner\.embedders\.3\.", "a second copy of the image VAE"),
    (r"conditioner\.embedders\.0\.open_clip\.model\.(token_embedding|ln_final)\.", "leftovers of CLIP's text half"),
    (r"conditioner\.embedders\.0\.open_clip\.model\.(positional_embedding|text_projection|logit_scale|attn_mask)$",
     "leftovers of CLIP's text half"),
    (r"conditioner\.embedders\.0\.open_clip\.model\.visual\.vision_model\.embeddings\.position_ids$", "numbers"),
    (r"conditioner\.embedders\.0\.open_clip\.(mean|std)$", "CLIP's pixel statistics"),
    (r"(model_ema|denoiser|loss_fn)\.", "leftovers of training"),
)  # fmt: skip
SVD_FILE = "Use an SVD checkpoint (svd, svd_xt or svd_xt_1_1)"
WHOLE = "Give the whole SVD checkpoint or folder"
FULL_PRECISION = "Use the fp16 or fp32 file"
REFUSED = (  # pattern -> what such a file is, what to do instead; the first match speaks
    (r"(^|[._])(lora|lokr|loha|hada|dora)([._]|$)", "a LoRA, not a model", "Give the SVD checkpoint it was made for"),
    (r"^(sce|injections|mpd)\.", "a file of GenProp adapters", "Give it as the adapters, and SVD as the base"),
    (r"(scaled_fp8|\.scale_weight|\.weight_scale|\.comfy_quant)$", "fp8-quantised", FULL_PRECISION),
    (r"\.(quant_map|absmax|qweight|qzeros)$", "quantised", FULL_PRECISION),
    (r"^conditioner\.embedders\.1\.encoder\.", "SV3D", SVD_FILE),  # its second VAE copy; SVD's is embedder 3
    (r"^conditioner\.embedders\.1\.(model|transformer)\.", "SDXL", SVD_FILE),
    (r"^conditioner\.embedders\.0\.model\.", "the SDXL refiner", SVD_FILE),
    (r"^cond_stage_model\.model\.", "Stable Diffusion 2", SVD_FILE),
    (r"^cond_stage_model\.", "Stable Diffusion 1.5", SVD_FILE),
    (r"motion_modules\.", "an AnimateDiff motion module", SVD_FILE),
    (r"^(down_blocks|mid_block)\.", "a diffusers UNet without the rest", WHOLE),
    (r"^vision_model\.", "a CLIP image encoder without the rest", WHOLE),
    (r"^(encoder|decoder|taesd_encoder|taesd_decoder)\.", "a VAE without the rest", WHOLE),
)


def refusal(keys: Iterable[str]) -> tuple[str, str] | None:
    """(what the file is, what to do) when its keys say that it is something other than SVD, else None."""
    keys = list(keys)
    for pattern, what, remedy in REFUSED:
        if any(re.search(pattern, k) for k in keys):
            return what, remedy
    return None


def is_optional(key: str) -> bool:
    return any(re.match(pattern, key) for pattern, _ in OPTIONAL)


# --- the tables: diffusers name -> official name ---------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """One diffusers tensor and where it stands in the official file.

    rule: "same"; "matrix" (official is a 1x1 convolution [C,C,1,1], diffusers a matrix [C,C]); "transposed"; or
    "third 0", "third 1", "third 2" (official keeps query, key and value in one tensor, in that order).
    """

    diffusers: str
    official: str
    rule: str = "same"


UNET_TOP = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
RES_BLOCK = {"norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.",
             "norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection."}  # fmt: skip
UNET_RES = {
    **{"spatial_res_block." + a: b for a, b in RES_BLOCK.items()},
    **{"temporal_res_block." + a: "time_stack." + b for a, b in RES_BLOCK.items()},
    "time_mixer.mix_factor": "time_mixer.mix_factor",
}
UNET_ATTENTION = {"temporal_transformer_blocks.": "time_stack.", "time_pos_embed.linear_1.": "time_pos_embed.0.",
                  "time_pos_embed.linear_2.": "time_pos_embed.2.", "transformer_blocks.": "transformer_blocks.",
                  "norm.": "norm.", "proj_in.": "proj_in.", "proj_out.": "proj_out.",
                  "time_mixer.mix_factor": "time_mixer.mix_factor"}  # fmt: skip
VAE_RES = {"norm1.": "norm1.", "conv1.": "conv1.", "norm2.": "norm2.", "conv2.": "conv2.",
           "conv_shortcut.": "nin_shortcut."}  # fmt: skip
VAE_DECODER_RES = {
    **{"spatial_res_block." + a: b for a, b in VAE_RES.items()},
    **{"temporal_res_block." + a: "time_stack." + b for a, b in RES_BLOCK.items()},
    "time_mixer.mix_factor": "mix_factor",
}
VAE_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
VAE_TOP = {"conv_in.": "conv_in.", "conv_norm_out.": "norm_out.", "conv_out.": "conv_out.",
           "time_conv_out.": "conv_out.time_mix_conv.", "mid_block.attentions.0.": "mid.attn_1.",
           "mid_block.resnets.0.": "mid.block_1.", "mid_block.resnets.1.": "mid.block_2."}  # fmt: skip
CLIP_TOP = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm.": "ln_pre.",
    "vision_model.post_layernorm.": "ln_post.",
    "visual_projection.weight": "proj",
}
CLIP_LAYER = {"layer_norm1.": "ln_1.", "layer_norm2.": "ln_2.", "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj.",
              "self_attn.out_proj.": "attn.out_proj.", "self_attn.q_proj.": "attn.in_proj_",
              "self_attn.k_proj.": "attn.in_proj_", "self_attn.v_proj.": "attn.in_proj_"}  # fmt: skip
TINY_PARTS = {"encoder.layers.": ("taesd_encoder.", 0), "decoder.layers.": ("taesd_decoder.", 1)}  # 1: its first clamp


def unet_entries(keys: Iterable[str], config: Mapping) -> list[Entry]:
    """keys: of UNetSpatioTemporalConditionModel, whose config says how many layers each level has."""
    levels = len(config["block_out_channels"])
    layers = config["layers_per_block"]
    layers = [layers] * levels if isinstance(layers, int) else list(layers)
    attention = ["CrossAttn" in t for t in config["up_block_types"]]
    down = list(accumulate((n + 1 for n in layers), initial=1))  # first input block of every level
    up = list(accumulate((n + 1 for n in reversed(layers)), initial=0))  # first output block of each level, and the end

    def translate(key: str) -> str:
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
            side, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            if kind == "downsamplers":
                return f"input_blocks.{down[level] + layers[level]}.0.{_swap(rest, {'conv.': 'op.'}, key)}"
            if kind == "upsamplers":
                return f"output_blocks.{up[level + 1] - 1}.{1 + attention[level]}.{rest}"
            block = f"input_blocks.{down[level] + layer}" if side == "down" else f"output_blocks.{up[level] + layer}"
            tables = {"resnets": ("0", UNET_RES), "attentions": ("1", UNET_ATTENTION)}
            place, table = tables[kind]
            return f"{block}.{place}.{_swap(rest, table, key)}"
        official = _swap(key, UNET_TOP, key)
        if key.startswith("mid_block."):
            kind = UNET_ATTENTION if ".attentions." in key else UNET_RES
            head = official[: len("middle_block.0.")]
            return head + _swap(official[len(head) :], kind, key)
        return official

    return [Entry(k, REQUIRED["unet"] + translate(k)) for k in keys]


def vae_entries(keys: Iterable[str], config: Mapping) -> list[Entry]:
    """keys: of AutoencoderKLTemporalDecoder. quant_conv is in the list; an official file without it means the identity.

    Raises GenPropError unless layers_per_block is 2: the official decoder always has two middle blocks.
    """
    if config["layers_per_block"] != 2:
        raise GenPropError(
            f"Expected a VAE with layers_per_block 2, got {config['layers_per_block']}: the single-file layout has no "
            "place for it. Keep it as a diffusers folder."
        )
    last = len(config["block_out_channels"]) - 1

    def translate(key: str) -> tuple[str, str]:
        half, rest = key.split(".", 1)
        if half == "quant_conv":
            return key, "same"
        table = VAE_RES if half == "encoder" else VAE_DECODER_RES
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", rest):
            side, level, kind, layer, tail = found[1], int(found[2]), found[3], found[4], found[5]
            level = level if side == "down" else last - level  # the official decoder counts from the full resolution
            if kind == "resnets":
                return f"{half}.{side}.{level}.block.{layer}.{_swap(tail, table, key)}", "same"
            return f"{half}.{side}.{level}.{side}sample.{tail}", "same"
        official = _swap(rest, VAE_TOP, key)
        for head, inner in (("mid.block_1.", table), ("mid.block_2.", table), ("mid.attn_1.", VAE_ATTENTION)):
            if official.startswith(head):
                matrix = inner is VAE_ATTENTION and key.endswith("weight") and "group_norm" not in key
                return f"{half}.{head}{_swap(official[len(head) :], inner, key)}", "matrix" if matrix else "same"
        return f"{half}.{official}", "same"

    return [Entry(k, REQUIRED["vae"] + t[0], t[1]) for k in keys for t in [translate(k)]]


def image_encoder_entries(keys: Iterable[str], config: Mapping | None = None) -> list[Entry]:
    """keys: of CLIPVisionModelWithProjection; official is open_clip's visual tower, with fused query, key and value."""
    prefix = REQUIRED["image_encoder"]

    def entry(key: str) -> Entry:
        if found := re.match(r"vision_model\.encoder\.layers\.(\d+)\.(.+)", key):
            official = f"{prefix}transformer.resblocks.{found[1]}.{_swap(found[2], CLIP_LAYER, key)}"
            third = re.search(r"self_attn\.([qkv])_proj", key)
            return Entry(key, official, f"third {'qkv'.index(third[1])}" if third else "same")
        rule = "transposed" if key == "visual_projection.weight" else "same"
        return Entry(key, prefix + _swap(key, CLIP_TOP, key), rule)

    return [entry(k) for k in keys]


def tiny_vae_entries(keys: Iterable[str], config: Mapping | None = None) -> list[Entry]:
    """keys: of AutoencoderTiny; official are the names ComfyUI gives TAESD's two halves, under first_stage_model."""

    def translate(key: str) -> str:
        for head, (official, shift) in TINY_PARTS.items():
            if key.startswith(head):
                number, rest = key[len(head) :].split(".", 1)
                return f"{official}{int(number) + shift}.{rest}"
        raise GenPropError(f"{key} is not a key of AutoencoderTiny.")

    return [Entry(k, REQUIRED["vae"] + translate(k)) for k in keys]


def _swap(text: str, table: Mapping[str, str], key: str) -> str:
    """text with the table's prefix it starts with replaced. Raises GenPropError when it has none of them."""
    for a, b in table.items():
        if text.startswith(a):
            return b + text[len(a) :]
    raise GenPropError(f"{key} is not a key of Stable Video Diffusion.")
