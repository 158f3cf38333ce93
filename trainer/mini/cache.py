"""Latents of generated pairs, encoded once, in shards of 25 that can be made while a stage trains on them."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from genprop_core import conditioning as cond
from genprop_core.files import load_tensors, save_tensors

from .clips import make_clip
from .precision import autocast
from .shape import new_image_encoder

SHARD = 25
FPS, MOTION_BUCKET = 7, 127


def load_vae(folder) -> AutoencoderTiny:
    vae = AutoencoderTiny()
    vae.load_state_dict(load_tensors(Path(folder) / "vae.safetensors")[0])
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def encode_pair(vae, image_encoder, clip, seed) -> dict[str, torch.Tensor]:
    """Latents of one pair. Index 0 of `key_*` and `clip_*` is the first frame, 1 the last (for playing backwards)."""
    source, target = clip.source * 2 - 1, clip.target * 2 - 1
    keys = torch.stack([target[0], target[-1], source[0], source[-1]])
    noisy = cond.augment_keyframe(keys, cond.NOISE_AUGMENTATION, seed)
    with autocast():
        # a few frames at a time stay in the processor's cache
        parts = torch.cat([source, target, noisy]).to(memory_format=torch.channels_last).split(4)
        z = torch.cat([vae.encode(part).latents.float() for part in parts])
    frames = len(source)
    embedding = cond.clip_embedding(image_encoder, keys)[:, 0]
    return {
        "source": z[:frames],
        "target": z[frames : 2 * frames],
        "mask": cond.mask_to_latents(clip.mask),
        "key_target": z[2 * frames : 2 * frames + 2] / cond.SCALING,
        "key_source": z[2 * frames + 2 :] / cond.SCALING,
        "clip_target": embedding[:2],
        "clip_source": embedding[2:],
    }


def build(folder, pairs):
    """Encodes pairs of seeds 0, 1, ... until `pairs` are there. Finished shards are kept."""
    folder = Path(folder)
    vae, image_encoder = load_vae(folder), new_image_encoder()
    for start in range(0, pairs, SHARD):
        path = folder / "cache" / f"{start:06d}.safetensors"
        if path.exists():
            continue
        rows = [encode_pair(vae, image_encoder, make_clip(seed), seed) for seed in range(start, start + SHARD)]
        save_tensors(path, {k: torch.stack([r[k] for r in rows]).half() for k in rows[0]}, {})
        print(f"cache: {start + SHARD} of {pairs} pairs", flush=True)


class Pairs:
    """All cached pairs in memory; `refresh` takes in shards that were finished meanwhile."""

    def __init__(self, folder):
        self.folder, self.tensors, self.seen = Path(folder) / "cache", {}, set()
        self.refresh()

    def refresh(self):
        for path in sorted(set(self.folder.glob("[0-9]*.safetensors")) - self.seen):
            self.seen.add(path)
            for key, value in load_tensors(path)[0].items():
                self.tensors[key] = torch.cat([self.tensors[key], value]) if key in self.tensors else value

    def __len__(self):
        return len(self.tensors["source"]) if self.tensors else 0

    def batch(self, rows, backwards, key="target"):
        """Rows of the cache as float32; `backwards` [B] bools play a clip from its last frame."""
        out = {}
        for name in ("source", "target", "mask"):
            value = self.tensors[name][rows].float()
            out[name] = torch.where(backwards.view(-1, 1, 1, 1, 1), value.flip(1), value)
        first = backwards.long()
        out["image"] = self.tensors[f"key_{key}"][rows, first].float()
        out["clip"] = self.tensors[f"clip_{key}"][rows, first].float()[:, None]
        return out
