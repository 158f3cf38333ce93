"""What travels between GenProp's nodes: the socket types and the objects behind them."""
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..genprop_core.checkpoint import AdapterFile
from ..genprop_core.conditioning import Condition
from ..genprop_core.sampler import SourceFeatures

CATEGORY = "GenProp"
MODELS_FOLDER = "genprop"  # below ComfyUI's models/

AdaptersSocket = io.Custom("GENPROP_ADAPTERS")
ConditionSocket = io.Custom("GENPROP_CONDITION")
FeaturesSocket = io.Custom("GENPROP_FEATURES")
KeyframesSocket = io.Custom("GENPROP_KEYFRAMES")  # ((frame index, picture [3,H,W] in [0,1]), ...)


@dataclass(frozen=True)
class Adapters:
    """Adapters as ComfyUI holds them. file: what their file says; patcher: loads and offloads `patcher.model`."""

    file: AdapterFile
    patcher: ModelPatcher

    @property
    def base(self):
        """Shape of the base they were made for."""
        return self.file.adapters.config.base

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: 8 for the VAE, 2 for every downsampling of the UNet."""
        return 8 * 2 ** (len(self.base.block_out_channels) - 1)


@dataclass(frozen=True)
class Segment:
    """Frames made in one pass. frames: their indices in the order of the pass, the keyframe first.

    condition: batch 1, those frames in that order. features: what the SCE makes of them; a fused one runs at every
    step as well.
    """

    frames: tuple[int, ...]
    condition: Condition
    features: SourceFeatures


@dataclass(frozen=True)
class Told:
    """What SVD is told about a clip."""

    fps: float
    motion_bucket: float
    noise_augmentation: float


@dataclass(frozen=True)
class EncodedCondition:
    """Behind GENPROP_CONDITION. width, height: pixels; fps, motion_bucket, noise_augmentation: as SVD was told."""

    adapters: Adapters
    segments: tuple[Segment, ...]
    num_frames: int
    width: int
    height: int
    fps: float
    motion_bucket: float
    noise_augmentation: float

    def latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        return frames, 4, self.height // 8, self.width // 8


@dataclass(frozen=True)
class Features:
    """Behind GENPROP_FEATURES: what the mask decoder read while sampling, decoded at once.

    The UNet features themselves would be hundreds of megabytes. probability: [T,1,h,w] float32 on the CPU.
    """

    probability: torch.Tensor
    width: int
    height: int
