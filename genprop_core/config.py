"""What an adapter file says about itself: the shape of the base it fits and the settings of the adapters."""

import json
from dataclasses import asdict, dataclass, fields

from .errors import GenPropError

REMOVE = "remove"  # the task that takes something away
TASKS = (REMOVE, "edit", "track")
SCE_FORMS = ("static", "fused")


@dataclass(frozen=True)
class BaseShape:
    """The widths of an SVD-shaped UNet, named as in diffusers' `UNetSpatioTemporalConditionModel` config."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    num_attention_heads: tuple[int, ...]
    cross_attention_dim: int
    addition_time_embed_dim: int
    transformer_layers_per_block: int = 1

    def __post_init__(self):
        for name in ("block_out_channels", "num_attention_heads"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        if len(self.block_out_channels) != len(self.num_attention_heads):
            raise GenPropError(
                f"Expected one head count per level, got {len(self.num_attention_heads)} head counts for "
                f"{len(self.block_out_channels)} levels. The base's configuration is not SVD's."
            )

    @classmethod
    def from_unet(cls, unet) -> "BaseShape":
        """The shape of a diffusers SVD UNet. Raises GenPropError for any other model."""
        config = getattr(unet, "config", None)
        missing = [f.name for f in fields(cls) if config is None or f.name not in config]
        if missing or not hasattr(unet, "add_embedding"):
            raise GenPropError(
                f"Expected an SVD UNet (UNetSpatioTemporalConditionModel), got {type(unet).__name__}. "
                "Load a Stable Video Diffusion base."
            )
        levels = len(config.block_out_channels)

        def single(value, name):
            values = {value} if isinstance(value, int) else set(value)
            if len(values) != 1:
                raise GenPropError(
                    f"Expected the same {name} in every level, got {value}. The base is not SVD's shape."
                )
            return values.pop()

        heads = config.num_attention_heads
        return cls(
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=single(config.layers_per_block, "layers_per_block"),
            num_attention_heads=(heads,) * levels if isinstance(heads, int) else tuple(heads),
            cross_attention_dim=single(config.cross_attention_dim, "cross_attention_dim"),
            addition_time_embed_dim=config.addition_time_embed_dim,
            transformer_layers_per_block=single(config.transformer_layers_per_block, "transformer_layers_per_block"),
        )

    def unet_config(self) -> dict:
        """Keyword arguments of `UNetSpatioTemporalConditionModel` for this shape."""
        levels = len(self.block_out_channels)
        return {
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.layers_per_block,
            "num_attention_heads": self.num_attention_heads,
            "cross_attention_dim": self.cross_attention_dim,
            "addition_time_embed_dim": self.addition_time_embed_dim,
            "projection_class_embeddings_input_dim": 3 * self.addition_time_embed_dim,
            "transformer_layers_per_block": self.transformer_layers_per_block,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * (levels - 1) + ("DownBlockSpatioTemporal",),
            "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * (levels - 1),
        }


@dataclass(frozen=True)
class AdapterConfig:
    """Settings that shape the adapters. Everything else (losses, sampling) is a setting of a run, not of the file.

    base: shape of the base the adapters were made for.
    num_blocks: how many of the UNet's down blocks the SCE copies, 1 to the base's number of levels.
    sce: "static" (runs once per window) or "fused" (runs at every step, on the UNet's own first features too).
    taps: "skips" (conv_in, every layer and downsampler) or "blocks" (only the last output of every copied block).
    injection_norm: whether an injection layer normalises the SCE's feature before its convolution (GroupNorm). It takes
        away how strong the contrast of a frame is, so it is off; docs/mini.md says more.
    selection: whether a map of what to keep, made from the SCE's features, says where what is injected (`Selection`).
    show_source: whether the UNet is shown the source as its image condition where it is kept, in the keyframe's place
        (`adapters.ShownSource`). The selection says where; it is injected after conv_in, so taps must be "skips".
    tasks: names of the learned task embeddings, in the order of their rows.
    """

    base: BaseShape
    num_blocks: int = 2
    sce: str = "static"
    taps: str = "skips"
    injection_norm: bool = False
    selection: bool = True
    show_source: bool = True
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self):
        levels = len(self.base.block_out_channels)
        if not 1 <= self.num_blocks <= levels:
            raise GenPropError(f"num_blocks must be 1 to {levels} for this base, got {self.num_blocks}.")
        if self.sce not in SCE_FORMS:
            raise GenPropError(f"sce must be one of {', '.join(SCE_FORMS)}, got {self.sce!r}.")
        if self.taps not in ("skips", "blocks"):
            raise GenPropError(f"taps must be skips or blocks, got {self.taps!r}.")
        if self.show_source and not (self.selection and self.taps == "skips"):
            raise GenPropError(
                f"show_source needs a selection, which says where, and taps to be skips; got selection "
                f"{'on' if self.selection else 'off'} and taps {self.taps!r}. Switch show_source off."
            )
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise GenPropError("tasks must name at least one task.")

    def tap_widths(self) -> list[int]:
        """Channels of every place in the copied part of the UNet where an injection is added, in order."""
        widths, base = [self.base.block_out_channels[0]], self.base
        for level in range(self.num_blocks):
            width, last = base.block_out_channels[level], level == len(base.block_out_channels) - 1
            widths += [width] * (base.layers_per_block + (not last))
        return widths

    def active_taps(self) -> list[bool]:
        """Which of those places carry an injection (all of them, unless taps is "blocks")."""
        if self.taps == "skips":
            return [True] * len(self.tap_widths())
        active, base = [False], self.base
        for level in range(self.num_blocks):
            last = level == len(base.block_out_channels) - 1
            active += [False] * (base.layers_per_block - last) + [True]
        return active

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "AdapterConfig":
        try:
            values = json.loads(text)
            silent = {"selection": False, "injection_norm": True, "show_source": False}  # files that say nothing of it
            values = silent | values
            return cls(**{**values, "base": BaseShape(**values["base"])})
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise GenPropError(
                f"Expected the configuration of GenProp adapters, got something else ({error}). "
                "The file was written by another version or is not an adapter file."
            ) from None
