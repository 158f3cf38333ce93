"""SVD's three parts as configurations and unread tensors in diffusers' names: what loading and converting share."""
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from . import svd_keys
from .components import Components
from .epsilon import set_groupnorm_eps
from .errors import GenPropError
from .lazy_tensors import FLOATS, LazyTensor, materialise
from .svd_keys import Entry

SVD_WIDTHS = (320, 640, 1280, 1280)
CLASSES = {
    "unet": ("UNetSpatioTemporalConditionModel",),
    "vae": ("AutoencoderKLTemporalDecoder", "AutoencoderTiny"),
    "image_encoder": ("CLIPVisionModelWithProjection",),
}


@dataclass
class Part:
    """One component: its diffusers or transformers config (`config.json`) and its tensors by diffusers key."""

    config: dict
    tensors: dict[str, LazyTensor]

    @property
    def class_name(self) -> str:
        return self.config.get("_class_name") or (self.config.get("architectures") or [""])[0]


@dataclass
class Parts:
    """A base on disk. unused: optional keys of the file that no component needs. version: see `Components`."""

    unet: Part
    vae: Part
    image_encoder: Part
    unused: list[str]
    num_frames: int | None = None
    version: str | None = None

    def items(self) -> list[tuple[str, Part]]:
        return [(name, getattr(self, name)) for name in CLASSES]


def meta_model(part_name: str, config: Mapping) -> torch.nn.Module:
    """The model of a config without memory for its weights. Raises GenPropError for classes that are not SVD's."""
    config = dict(config)
    name = Part(config, {}).class_name
    if name not in CLASSES[part_name]:
        raise GenPropError(
            f"Expected the {part_name} to be {' or '.join(CLASSES[part_name])}, got {name or 'no class name'}. "
            "Use a Stable Video Diffusion base (svd, svd_xt or svd_xt_1_1)."
        )
    import diffusers
    import transformers

    with torch.device("meta"):
        if part_name == "image_encoder":
            return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig.from_dict(config))
        return getattr(diffusers, name).from_config(config)


def official_entries(part_name: str, part_class: str, keys: Iterable[str], config: Mapping) -> list[Entry]:
    """The key map of one component between the diffusers names `keys` and the official file."""
    if part_class == "AutoencoderTiny":
        return svd_keys.tiny_vae_entries(keys)
    maps = {"unet": svd_keys.unet_entries, "vae": svd_keys.vae_entries, "image_encoder": svd_keys.image_encoder_entries}
    return maps[part_name](keys, config)


def to_diffusers(entries: Iterable[Entry], official: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Official tensors under diffusers names; entries whose official tensor is absent are left out."""
    return {e.diffusers: official[e.official].map(_to_diffusers(e.rule)) for e in entries if e.official in official}


def to_official(entries: Iterable[Entry], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Diffusers tensors under official names; query, key and value are joined. The inverse of `to_diffusers`."""
    groups = defaultdict(list)
    for entry in entries:
        groups[entry.official].append(entry)
    out = {}
    for official, group in groups.items():
        group = sorted(group, key=lambda e: e.rule)
        parts = [tensors[e.diffusers] for e in group]
        if len({p.dtype for p in parts}) > 1:
            raise GenPropError(f"Expected one dtype for query, key and value, got several at {group[0].diffusers}.")
        joined = LazyTensor.cat(parts) if len(parts) > 1 else parts[0].map(_to_official(group[0].rule))
        out[official] = joined
    return out


def _to_diffusers(rule: str):
    if rule == "matrix":
        return lambda t: t[:, :, 0, 0]
    if rule == "transposed":
        return lambda t: t.t()
    if rule.startswith("third"):
        return lambda t: t.chunk(3)[int(rule[-1])]
    return lambda t: t


def _to_official(rule: str):
    return {"matrix": lambda t: t[:, :, None, None], "transposed": lambda t: t.t()}.get(rule, lambda t: t)


def refuse_quantised(path, tensors: Mapping[str, LazyTensor]) -> None:
    """Raises GenPropError when a tensor that SVD needs is not fp64, fp32, bf16 or fp16."""
    for key, tensor in tensors.items():
        if tensor.dtype not in FLOATS and not svd_keys.is_optional(key) and not key.endswith("position_ids"):
            kind = "fp8-quantised" if "float8" in str(tensor.dtype) else "quantised"
            raise GenPropError(
                f"Expected weights in fp32, bf16 or fp16, but {path} is {kind} ({key} is "
                f"{str(tensor.dtype).removeprefix('torch.')}). Use the fp16 or fp32 file."
            )


def load_part(name: str, part: Part, dtype: torch.dtype, what: str) -> torch.nn.Module:
    """One component as a model in `dtype`, frozen; the UNet with the epsilons of Stability's code."""
    model = meta_model(name, part.config)
    materialise(model, part.tensors, dtype, what)
    if name == "unet":
        set_groupnorm_eps(model)
    return model


def load_parts(parts: Parts, dtype: torch.dtype, path) -> Components:
    """All three components in `dtype` on the CPU, one after the other."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise GenPropError(f"Expected float32, float16 or bfloat16 for the base, got {dtype}.")
    models = {name: load_part(name, part, dtype, f"The {name} of {path}") for name, part in parts.items()}
    conv_in = parts.unet.tensors["conv_in.weight"].read().to(torch.float16, copy=True)
    return Components(**models, num_frames=parts.num_frames, version=parts.version, conv_in=conv_in)


def is_full_size(config: Mapping) -> bool:
    """Whether a UNet has SVD's own widths, so that a name like svd_xt.safetensors says something about it."""
    return tuple(config.get("block_out_channels", ())) == SVD_WIDTHS
