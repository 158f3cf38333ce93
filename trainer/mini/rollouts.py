"""Long clips as the adapters make them, window after window: what they have to learn from for clips of many windows.

A pair of the cache starts from the truth, with the shape that is removed in full sight. Of a long clip all windows but
the first start from a frame that an earlier one made, and shapes hide each other. So the adapters make long clips, by
the engine itself, and the keyframe that a window would be given is kept of every frame, beside the truth: data of
their own making, with the right answers (Ross et al. 2011, arXiv 1011.0686, "DAgger").
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from genprop_core import conditioning as cond
from genprop_core.checkpoint import load_adapters
from genprop_core.clip_input import View
from genprop_core.errors import GenPropError
from genprop_core.files import open_tensors, save_tensors
from genprop_core.frames import as_bytes, as_float
from genprop_core.headless_windows import HeadlessWindows
from genprop_core.long_clip import ClipSettings, checked, make
from genprop_core.metrics import psnr
from genprop_core.next_keyframe import NextKeyframe
from genprop_core.pipeline import GenProp, PropagateSettings

from .cache import check_vae, digest_of_vae
from .clips import FRAMES, Clip, make_clip
from .export import pack
from .precision import autocast, bfloat16_pays

FOLDER = "rollouts"
FIRST_SEED = 400_000  # of their clips; the cache's pairs have those from 0
LENGTH = 64  # frames of a clip
LOST = 13.0  # dB inside the mask: with less than that in the keyframe there is no edit left to go by,
SPOILT = 24.0  # or another one, where this is not reached outside it
HIDDEN = 0.005  # of the picture: what is removed is hidden where its mask is smaller, and the keyframe cannot be wrong
ENCODED = 4  # frames at a time
SETTINGS = ClipSettings(find_shots=False, look_ahead=False)  # they learn to find the shape by themselves


def own_keyframes(pipeline: GenProp, clip: Clip, seed: int) -> torch.Tensor:
    """What a window would start from at every frame of the clip, which is made from its first: [T,3,H,W] in [0,1]."""
    source, first = as_bytes(clip.source), as_bytes(clip.target[0])
    settings = replace(SETTINGS, seed=seed, size=tuple(source.shape[-2:]))
    model = HeadlessWindows(pipeline, pipeline.resolved(PropagateSettings(seed=seed)))
    view, keyframes, shots = checked(model, source, {0: first}, settings)
    with torch.no_grad():
        made = make(model, view, keyframes, shots, settings)
    return along(view, made, as_float(source[0]), as_float(first), settings)


def along(view: View, made, source, keyframe, settings: ClipSettings) -> torch.Tensor:
    """The keyframes [T,3,H,W] of a clip that was `made` forwards from its first frame, the given keyframe [3,H,W]."""
    following = NextKeyframe(view, source, keyframe, settings.anchor, settings.passing, settings.behind)
    pictures = [keyframe]
    for index in range(1, len(made.frames)):
        following.advance(made, index, index, view.frames([index])[0])
        pictures.append(following.picture(made, index, index))
    return torch.stack(pictures)


@torch.no_grad()
def encode(base, clip: Clip, own: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """Latents of a clip: "source", "target" and "mask" as a pair has them; of every frame, as a keyframe, "own" and
    "true" [T,4,h,w] with "clip_own" and "clip_true" [T,D]; "use" bools [T], whether its own keyframe can be learned
    from; "truth" and "area" (uint8), the frames and the mask in pixels."""
    vae, device = base.vae, base.vae.device

    def latents(frames):
        with autocast(device):
            parts = (frames * 2 - 1).to(device, memory_format=torch.channels_last).split(ENCODED)
            return torch.cat([vae.encode(part).latents.float() for part in parts]).cpu()

    def noisy(frames, first):
        seeds = range(first, first + len(frames))
        own = [cond.augment_keyframe(f * 2 - 1, cond.NOISE_AUGMENTATION, s) for f, s in zip(frames, seeds)]
        return torch.stack(own) / 2 + 0.5

    def embedding(frames):
        return cond.clip_embedding(base.image_encoder, frames.to(device) * 2 - 1)[:, 0].cpu()

    half = {
        "source": latents(clip.source),
        "target": latents(clip.target),
        "mask": cond.mask_to_latents(clip.mask),
        "own": latents(noisy(own, seed * 2 * LENGTH)) / cond.SCALING,
        "true": latents(noisy(clip.target, (seed * 2 + 1) * LENGTH)) / cond.SCALING,
        "clip_own": embedding(own),
        "clip_true": embedding(clip.target),
    }
    return {k: v.half().contiguous() for k, v in half.items()} | {
        "use": usable(own, clip),
        "truth": as_bytes(clip.target),
        "area": as_bytes(clip.mask),
    }


def usable(own: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Bools [T]: of which of these keyframes the edit can still be told."""
    def good(frame, truth, mask):
        outside = psnr(frame, truth, 1 - mask)
        shown = mask.mean() <= HIDDEN or psnr(frame, truth, mask) >= LOST
        return bool(shown and (outside is None or outside >= SPOILT))  # fmt: skip

    return torch.tensor([good(*(v[None] for v in frame)) for frame in zip(own, clip.target, clip.mask)])


class _Clips(Dataset):
    """The clips by their seeds, made by a pipeline and encoded by a base in full precision."""

    def __init__(self, pipeline: GenProp, base):
        self.pipeline, self.base = pipeline, base

    def __getitem__(self, seed):
        clip = make_clip(seed, LENGTH)
        return encode(self.base, clip, own_keyframes(self.pipeline, clip, seed), seed)


def build(folder, clips: int, adapters=None, device="cpu", workers=0):
    """Makes the clips of seeds FIRST_SEED and so on until `clips` are there, with the work folder's base.

    adapters: a file, by default the work folder's adapters.safetensors. What is finished is kept. workers: processes
    that make clips side by side, on a CPU. Raises GenPropError where there is no base or no adapters, or where the
    clips that are there are of another VAE.
    """
    adapters = Path(folder) / "adapters.safetensors" if adapters is None else Path(adapters)
    if not adapters.exists():
        raise GenPropError(f"Expected adapters to make clips with in {adapters}, but there are none. Run that stage.")
    rolls = Path(folder) / FOLDER
    check_vae(rolls)
    files = {seed: rolls / f"{seed}.safetensors" for seed in range(FIRST_SEED, FIRST_SEED + clips)}
    missing = [seed for seed, file in files.items() if not file.exists()]
    if not missing:
        return
    packed = str(pack(folder))
    dtype = torch.bfloat16 if torch.device(device).type == "cpu" and bfloat16_pays() else torch.float32
    pipeline = GenProp.from_files(packed, str(adapters), dtype=dtype, device=device)
    exact = GenProp.from_files(packed, adapters=False, device=device).base  # `encode` takes its precision per layer
    exact.vae.to(device), exact.image_encoder.to(device)
    made_by = {"vae": digest_of_vae(folder), "adapters": load_adapters(adapters).digest}
    workers = workers if torch.device(device).type == "cpu" else 0
    made = DataLoader(_Clips(pipeline, exact), None, sampler=missing, num_workers=workers)
    for seed, tensors in zip(missing, made):
        save_tensors(files[seed], tensors, made_by)
        print(f"rollouts: {seed - FIRST_SEED + 1} of {clips} clips", flush=True)


class Rollouts:
    """The clips of a work folder in memory, but for their pictures. Raises GenPropError where there are none."""

    PICTURES = ("truth", "area")

    def __init__(self, folder):
        self.files = check_vae(Path(folder) / FOLDER)
        if not self.files:
            raise GenPropError(
                f"Expected long clips in {Path(folder) / FOLDER}, but there are none. "
                f"Run: python -m trainer.mini rollouts --work {folder}."
            )
        self.clips = []
        for path in self.files:
            with open_tensors(path) as file:
                kept = [k for k in file.keys() if k not in self.PICTURES]
                self.clips.append({k: file.get_tensor(k).clone() for k in kept})  # a mapped one keeps the file open

    def __len__(self):
        return len(self.clips)

    def batch(self, count, share: float, at: int, g, device="cpu", first=0, last=None) -> dict[str, torch.Tensor]:
        """Windows at random places of clips first..last, with "source", "target", "mask", "image" and "clip" as
        `cache.Pairs.batch` has them.

        share: of the windows that start from a keyframe of the adapters' own making; the others start from the truth,
        and half of them are played backwards. Of `at` frames of each, "at" [B,at] says which, and "truth" [B,at,3,H,W]
        and "area" [B,at,1,H,W] are what they should be and where it was edited, in [0,1].
        """
        chosen = range(len(self.clips))[first:last]
        rows = [self._window(chosen, share, at, g) for _ in range(count)]
        return {k: torch.stack([row[k] for row in rows]).to(device) for k in rows[0]}

    def _window(self, chosen, share, at, g):
        def below(n):
            return int(torch.randint(n, (), generator=g))

        own = float(torch.rand((), generator=g)) < share
        number = chosen[below(len(chosen))]
        clip = self.clips[number]
        starts = clip["use"][: LENGTH - FRAMES + 1].nonzero()[:, 0] if own else torch.arange(LENGTH - FRAMES + 1)
        start = int(starts[below(len(starts))])  # frame 0 can always be used: it is the truth
        order = torch.arange(start, start + FRAMES)
        order = order.flip(0) if not own and below(2) else order
        row = {k: clip[k][order].float() for k in ("source", "target", "mask")}
        kind, first = "own" if own else "true", int(order[0])
        row |= {"image": clip[kind][first].float(), "clip": clip[f"clip_{kind}"][first][None].float()}
        row["at"] = torch.randperm(FRAMES, generator=g)[:at]
        with open_tensors(self.files[number]) as file:
            for name in self.PICTURES:
                pictures = file.get_slice(name)
                row[name] = as_float(torch.stack([pictures[int(n)] for n in order[row["at"]]]))
        return row
