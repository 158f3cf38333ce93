"""Latents of generated pairs, encoded once, in shards of 25 that can be made while a stage trains on them.

Beside every shard lie its pictures, of which the base's training looks at one frame at a time.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch.utils.data import DataLoader, Dataset

from genprop_core import conditioning as cond
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, open_tensors, save_tensors
from genprop_core.frames import as_bytes, as_float
from trainer.encoder import weights_digest

from .clips import make_clip
from .precision import autocast
from .shape import new_image_encoder

SHARD = 25
SIDES = ("source", "target")
PICTURES = "pictures-"  # before a shard's name: the file with its clips' frames
FPS, MOTION_BUCKET = 7, 127


def load_vae(folder, device="cpu") -> AutoencoderTiny:
    vae = AutoencoderTiny()
    vae.load_state_dict(load_tensors(Path(folder) / "vae.safetensors")[0])
    return vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def encode_pair(vae, image_encoder, clip, seed) -> dict[str, torch.Tensor]:
    """Latents of one pair. Index 0 of `key_*` and `clip_*` is the first frame, 1 the last (for playing backwards)."""
    device = vae.device
    source, target = (v.to(device) * 2 - 1 for v in (clip.source, clip.target))
    keys = torch.stack([target[0], target[-1], source[0], source[-1]])
    noisy = cond.augment_keyframe(keys, cond.NOISE_AUGMENTATION, seed)
    with autocast(device):
        # a few frames at a time stay in the processor's cache
        parts = torch.cat([source, target, noisy]).to(memory_format=torch.channels_last).split(4)
        z = torch.cat([vae.encode(part).latents.float() for part in parts])
    frames = len(source)
    embedding = cond.clip_embedding(image_encoder, keys)[:, 0]
    encoded = {
        "source": z[:frames],
        "target": z[frames : 2 * frames],
        "mask": cond.mask_to_latents(clip.mask),
        "key_target": z[2 * frames : 2 * frames + 2] / cond.SCALING,
        "key_source": z[2 * frames + 2 :] / cond.SCALING,
        "clip_target": embedding[:2],
        "clip_source": embedding[2:],
    }
    return {k: v.cpu() for k, v in encoded.items()}


def digest_of_vae(folder) -> str:
    """Of the encoder: it alone says what latents mean, so a decoder that was trained again fits what is encoded."""
    return weights_digest(load_vae(folder).encoder)


def check_vae(cache: Path) -> list[Path]:
    """The shards of a folder. Raises GenPropError where one was made by another VAE than the one beside it now."""
    shards = sorted(cache.glob("[0-9]*.safetensors"))
    if not shards:
        return shards
    vae = load_vae(cache.parent)
    now, whole = weights_digest(vae.encoder), weights_digest(vae)  # the latter was written by earlier versions
    for path in shards:
        with open_tensors(path) as file:
            found = (file.metadata() or {}).get("vae")
        if found not in (now, whole):
            raise GenPropError(
                f"Expected latents of the VAE in {cache.parent} ({now}), but {path} has those of another "
                f"({found or 'unknown'}): its encoder was trained further. Remove {cache}, with the files base.*, "
                f"adapters.*, long.* and decoder.* beside it, and run the stage {cache.name} again."
            )
    return shards


class _Clips(Dataset):
    """The generated clips by their seeds."""

    def __getitem__(self, seed):
        return make_clip(seed)


def build(folder, pairs, device="cpu", workers=0):
    """Encodes pairs of seeds 0, 1, ... until `pairs` are there. Finished shards are kept.

    workers: processes that draw clips meanwhile, which takes longer than a GPU needs to encode them.
    """
    folder = Path(folder) / "cache"
    vae, image_encoder = load_vae(folder.parent, device), new_image_encoder().to(device)
    check_vae(folder)
    made_by = {"vae": digest_of_vae(folder.parent)}
    starts = [s for s in range(0, pairs, SHARD) if not (folder / f"{s:06d}.safetensors").exists()]
    seeds = [seed for start in starts for seed in range(start, start + SHARD)]
    clips = iter(DataLoader(_Clips(), None, sampler=seeds, num_workers=workers))
    for start in starts:
        drawn = [next(clips) for _ in range(SHARD)]
        rows = [encode_pair(vae, image_encoder, clip, start + n) for n, clip in enumerate(drawn)]
        pictures = {side: torch.stack([as_bytes(getattr(clip, side)) for clip in drawn]) for side in SIDES}
        save_tensors(folder / f"{PICTURES}{start:06d}.safetensors", pictures, made_by)
        save_tensors(folder / f"{start:06d}.safetensors",
                     {k: torch.stack([r[k] for r in rows]).half() for k in rows[0]}, made_by)  # fmt: skip
        print(f"cache: {start + SHARD} of {pairs} pairs", flush=True)


class Pairs:
    """All cached pairs in memory; `refresh` takes in shards that were finished meanwhile."""

    def __init__(self, folder):
        self.folder, self.tensors, self.seen = Path(folder) / "cache", {}, set()
        check_vae(self.folder)
        self.refresh()

    def refresh(self):
        for path in sorted(set(self.folder.glob("[0-9]*.safetensors")) - self.seen):
            self.seen.add(path)
            for key, value in load_tensors(path)[0].items():
                self.tensors[key] = torch.cat([self.tensors[key], value]) if key in self.tensors else value

    def __len__(self):
        return len(self.tensors["source"]) if self.tensors else 0

    def batch(self, rows, backwards, key="target", device="cpu"):
        """Rows of the cache as float32 on `device`; `backwards` [B] bools play a clip from its last frame."""
        out = {}
        for name in ("source", "target", "mask"):
            value = self.tensors[name][rows].float()
            out[name] = torch.where(backwards.view(-1, 1, 1, 1, 1), value.flip(1), value)
        first = backwards.long()
        out["image"] = self.tensors[f"key_{key}"][rows, first].float()
        out["clip"] = self.tensors[f"clip_{key}"][rows, first].float()[:, None]
        return {k: v.to(device) for k, v in out.items()}

    def pictures(self, rows, backwards, at, side="target", device="cpu"):
        """One frame [B,3,H,W] in [0,1] of each of these rows: `at` [B] counts from where the clip is played from.

        Raises GenPropError where a shard has no pictures beside it.
        """
        picked = []
        for row, back, frame in zip(rows.tolist(), backwards.tolist(), at.tolist()):
            path = self.folder / f"{PICTURES}{row // SHARD * SHARD:06d}.safetensors"
            if not path.exists():
                raise GenPropError(
                    f"Expected the pictures of the encoded pairs in {path}, but there are none: the cache was made by "
                    f"an earlier version. Remove {self.folder} and run `python -m trainer.mini cache` again."
                )
            with open_tensors(path) as file:
                clip = file.get_slice(side)
                frame = clip.get_shape()[1] - 1 - frame if back else frame
                picked.append(clip[row % SHARD, frame])
        return as_float(torch.stack(picked)).to(device)
