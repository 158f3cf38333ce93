"""From the frames of a clip to the latents a training step needs: the only place where training uses VAE and CLIP."""

import hashlib
from contextlib import nullcontext

import torch

from genprop_core import conditioning as cond

from .samples import derive

CHUNK = 8  # frames at a time


def weights_digest(*modules) -> str:
    """16 hex digits that change with any weight of the modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class Encoder:
    """A base's VAE and CLIP. They are on the device within `with encoder:` only, so that training has the memory."""

    def __init__(
        self,
        base,
        device,
        corrupt: str = "none",
        dtype: torch.dtype = torch.float32,
        resident: bool = False,
        bfloat16: bool = False,
    ):
        """corrupt: "blur", "black" or "none"; dtype: of the latents; resident: stay on the device for good.

        bfloat16: let the VAE compute in it. float16 is not offered: SVD's VAE overflows in it.
        """
        self.vae, self.image_encoder, self.device = base.vae, base.image_encoder, torch.device(device)
        self.corrupt, self.dtype, self.resident, self.bfloat16 = corrupt, dtype, resident, bfloat16
        if resident:
            self._move(self.device)
        self.digest = weights_digest(self.vae, self.image_encoder)

    def __enter__(self):
        return self._move(self.device)

    def __exit__(self, *error):
        if not self.resident:
            self._move("cpu")

    def _move(self, device):
        self.vae.to(device), self.image_encoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, frames: dict, name: str) -> dict[str, torch.Tensor]:
        """{"source", "target" [T,3,H,W], "mask" [T,1,H,W]} in [0,1] -> `samples.assemble`'s window, on the device.

        The keyframes' noise augmentation depends on the clip's name alone, so that cutting a clip in pieces changes
        nothing. Source and target latents are scaled, "key" is not.
        """
        source, target, mask = (frames[k].to(self.device) for k in ("source", "target", "mask"))
        seed = derive("augmentation", name) % 2**31
        noisy = cond.augment_keyframe(target * 2 - 1, cond.NOISE_AUGMENTATION, seed)
        window = {
            "source": self._latents(source * 2 - 1, scaled=True),
            "target": self._latents(target * 2 - 1, scaled=True),
            "key": self._latents(noisy, scaled=False),
            "mask": cond.mask_to_latents(mask),
            "clip": cond.clip_embedding(self.image_encoder, target * 2 - 1)[:, 0],
        }
        if self.corrupt != "none":
            hidden = cond.hide(source, mask, self.corrupt)
            window["corrupt"] = self._latents(hidden * 2 - 1, scaled=True)
        return {k: v.to(self.dtype) for k, v in window.items()}

    def _latents(self, frames: torch.Tensor, scaled: bool) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            return cond.encode_frames(self.vae, frames, scaled=scaled, chunk=CHUNK)
