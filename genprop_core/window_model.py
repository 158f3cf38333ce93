"""What the long-clip engine asks of a model: to make one window. Headless and in ComfyUI it is the same request."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .sampler import unit_noise

LATENT_CHANNELS = 4
STRIDE = 0x9E3779B97F4A7C15  # between the seeds of two blocks, so that neighbouring seeds never share one


class WindowModel(Protocol):
    """Makes one window of a clip. All tensors are float32 on the CPU.

    default_frames: frames of a window where the user does not say. size_multiple: width and height must be multiples.
    removes: whether the edit is to take something away, so that what is behind it comes into sight.
    """

    default_frames: int
    size_multiple: int
    removes: bool

    def run(
        self,
        source: torch.Tensor,
        keyframe: torch.Tensor,
        *,
        noise: torch.Tensor,
        region: torch.Tensor | None = None,
        guided: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The window as (frames [T,3,H,W] in [0,1], mask probability [T,1,H/8,W/8] or None without adapters).

        source: [T,3,H,W] in [0,1] at the working size, what the SCE sees: in a second pass the region is hidden in it
        already. keyframe: [3,H,W] in [0,1], the edited first frame of the window; with `inner_keyframes`, where the
        window holds more of them, [T,3,H,W] with the nearest for each frame. noise: unit noise [1,T,4,H/8,W/8].
        region: [T,1,H/8,W/8], where the picture is known to be edited or not, or None: see `Condition.region`.
        guided: False samples without guidance.
        progress(step, steps) is called after every sampling step; what it raises stops the window.
        """
        ...


class FrameNoise:
    """Unit noise that belongs to a frame, not to a window: windows that share a frame share its noise.

    Made in blocks of `block` frames, each by its own seed; the first is `unit_noise(shape, seed)`, so that a clip of
    one window gets exactly the noise it would get alone.
    """

    def __init__(self, seed: int, height: int, width: int, block: int):
        """height, width: of the latents. The seed as in `conditioning.seeded`."""
        self.seed, self.shape, self.block = seed, (1, block, LATENT_CHANNELS, height, width), block
        self.kept: dict[int, torch.Tensor] = {}

    def __call__(self, frames: Sequence[int]) -> torch.Tensor:
        """[1,n,4,h,w] for these frame indices, in their order; only the blocks they are in stay in memory."""
        blocks = {frame // self.block for frame in frames}
        self.kept = {b: self.kept[b] if b in self.kept else self._make(b) for b in blocks}
        return torch.stack([self.kept[f // self.block][0, f % self.block] for f in frames])[None]

    def _make(self, block: int) -> torch.Tensor:
        return unit_noise(self.shape, self.seed + block * STRIDE)


class GivenNoise:
    """Noise that the caller brings: pieces [1,t,4,h,w] that together cover the clip."""

    def __init__(self, pieces: Sequence[torch.Tensor]):
        self.all = torch.cat(list(pieces), dim=1)

    def __call__(self, frames: Sequence[int]) -> torch.Tensor:
        return self.all[:, list(frames)]
