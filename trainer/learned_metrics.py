"""CLIP-I, CLIP-T and LPIPS by torchmetrics, with weights that are on this machine already. Nothing is downloaded."""

from importlib.util import find_spec
from pathlib import Path

import torch

from genprop_core.errors import GenPropError

from .evaluation_clips import EvalClip

KEYS = ("clip_i", "clip_t", "lpips")
CLIP = "openai/clip-vit-large-patch14"  # used where it is in Hugging Face's cache and no other was asked for
BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


def lpips_cache(net: str) -> Path:
    """Where torchvision would keep the backbone's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]


def cached_clip(name: str) -> Path | None:
    """The folder of a model, by its name on the Hugging Face hub, in the cache on this machine; None where it is not
    there. The network is never asked."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name that a model could have
        return None
    return Path(found).parent if isinstance(found, str) else None


class _Features(torch.nn.Module):
    """A CLIP model whose features are tensors, as torchmetrics expects; transformers 5 wraps them in an output."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *args):
        return self._tensor(self.model.get_image_features(*args))

    def get_text_features(self, *args):
        return self._tensor(self.model.get_text_features(*args))

    @staticmethod
    def _tensor(features):
        return features if isinstance(features, torch.Tensor) else features.pooler_output


class LearnedMetrics:
    """Whichever of them can be had. `without` says, per metric, why it cannot; `clip_weights` which CLIP is used."""

    def __init__(self, clip_weights=None, lpips_net: str = "alex", device="cpu"):
        """clip_weights: the folder of a CLIP model in transformers' layout, or its name in Hugging Face's cache; None
        for `CLIP`, where it is there. Raises GenPropError when it is given but is not one."""
        self.without, self.device, self.clip, self.lpips = {}, device, None, None
        self.clip_weights = None if clip_weights is None else str(clip_weights)
        folder = cached_clip(CLIP) if clip_weights is None else Path(clip_weights)
        if clip_weights is not None and not (folder / "config.json").is_file():
            folder = cached_clip(str(clip_weights))
            if folder is None:
                raise GenPropError(
                    f"Expected a CLIP model in transformers' layout in {clip_weights} (config.json, weights, "
                    "tokenizer), or its name in Hugging Face's cache, got none. Give one of them, or leave "
                    "--clip-weights away."
                )
        if find_spec("torchmetrics") is None:
            self.without = dict.fromkeys(KEYS, "torchmetrics is not installed (pip install torchmetrics)")
            return
        if folder is None:
            lacking = f"no CLIP weights given (--clip-weights), and {CLIP} is not in Hugging Face's cache"
            self.without |= dict.fromkeys(("clip_i", "clip_t"), lacking)
        else:
            self._take_clip(folder)
        if not lpips_cache(lpips_net).is_file():
            self.without["lpips"] = f"{lpips_cache(lpips_net).name} is not in PyTorch's cache"
        elif find_spec("torchvision") is None:
            self.without["lpips"] = "torchvision is not installed"
        else:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.lpips = LearnedPerceptualImagePatchSimilarity(lpips_net, normalize=True).to(device)

    def _take_clip(self, folder: Path):
        """Loads it. What happens to lie in the cache may be less than a whole model; what was asked for may not."""
        try:
            self.clip = self._load_clip(folder)
        except GenPropError as error:
            if self.clip_weights is not None:
                raise
            self.without |= dict.fromkeys(("clip_i", "clip_t"), str(error))
        else:
            self.clip_weights = self.clip_weights or CLIP

    def _load_clip(self, folder: Path):
        from torchmetrics.multimodal import CLIPScore
        from transformers import CLIPModel, CLIPProcessor

        def local():  # as objects: a name would make torchmetrics look for it on the network
            return (
                _Features(CLIPModel.from_pretrained(folder, local_files_only=True)),
                CLIPProcessor.from_pretrained(folder, local_files_only=True),
            )

        try:
            return CLIPScore(model_name_or_path=local).to(self.device)
        except (OSError, ValueError) as error:
            raise GenPropError(f"Expected a whole CLIP model in {folder}, but it cannot be read ({error}).") from None

    @torch.no_grad()
    def score(self, frames: torch.Tensor, clip: EvalClip) -> dict:
        """{"clip_i", "clip_t", "lpips"} of frames [T,3,H,W] in [0,1], None where weights, truth or prompt lack."""
        out = dict.fromkeys(KEYS)
        if self.clip is not None:
            pictures = self._bytes(frames)
            keyframe = self._bytes(clip.keyframe[None]).expand_as(pictures)
            out["clip_i"] = self._clip(list(pictures), list(keyframe))
            if clip.prompt:
                out["clip_t"] = self._clip(list(pictures), [clip.prompt] * len(pictures))
        if self.lpips is not None and clip.target is not None:
            values = [self.lpips(f[None].to(self.device).clamp(0, 1), t[None].to(self.device).clamp(0, 1))
                      for f, t in zip(frames, clip.target)]  # fmt: skip
            out["lpips"] = float(sum(values) / len(values))
        return out

    def _clip(self, source, target) -> float:
        value = float(self.clip(source, target)) / 100  # torchmetrics gives percent
        self.clip.reset()
        return value

    def _bytes(self, frames):
        return (frames * 255).round().clamp(0, 255).to(torch.uint8).to(self.device)
