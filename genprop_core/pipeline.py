"""The headless pipeline: a source clip and an edited keyframe in, the edited clip and the predicted mask out."""

import math
from dataclasses import dataclass, field, replace

import torch

from . import conditioning as cond
from .base import SAMPLED, Base, default_adapters, load_base
from .checkpoint import AdapterFile, load_adapters
from .clip_input import check_aspect, check_clip
from .errors import GenPropError
from .fit import Fit
from .frames import as_float
from .headless_windows import HeadlessWindows
from .long_clip import ClipResult, ClipSettings, checked, make, propagate_clip
from .offload import Placement
from .out_of_memory import explained
from .sampler import SamplerSettings, SourceFeatures, sample, source_features

__all__ = ["GenProp", "PropagateSettings", "Result", "as_float", "check_aspect", "nearest_size"]


@dataclass(frozen=True)
class PropagateSettings:
    """One run's settings; None means the base's default.

    width, height: pixels the base works at. window: frames per pass. task: one the adapters know. decode_chunk: frames
    decoded together; SVD's temporal decoder depends on it, so it is a setting and never adapted to the memory there is.
    clip: what is done with clips longer than a window; its window, size and seed come from here.
    """

    sampler: SamplerSettings = SamplerSettings(steps=None, max_cfg=None, sigma_min=None)
    task: str = "remove"
    width: int | None = None
    height: int | None = None
    window: int | None = None
    fps: float | None = None
    motion_bucket: float | None = None
    noise_augmentation: float = cond.NOISE_AUGMENTATION
    seed: int = 0
    decode_chunk: int = 8
    clip: ClipSettings = ClipSettings()


@dataclass
class Result:
    """frames: float32 [T,3,H,W] in [0,1] at the working size; mask: probability [T,1,H/8,W/8] or None.

    latents: scaled [T,4,H/8,W/8] of a clip of one window, else None. seconds: {"encode", "sce_and_loop", "decode"};
    calls: {"windows"}; seams: frames where windows meet.
    """

    frames: torch.Tensor
    mask: torch.Tensor | None
    latents: torch.Tensor | None
    seconds: dict = field(default_factory=dict)
    calls: dict = field(default_factory=dict)
    seams: list = field(default_factory=list)


def nearest_size(aspect: float, area: int, multiple: int) -> tuple[int, int]:
    """(height, width) in multiples of `multiple`, near this aspect (height / width) and, half as much, this area."""
    heights = [k * multiple for k in range(1, math.ceil((area * max(aspect, 1)) ** 0.5 / multiple) + 2)]
    sizes = [(h, max(multiple, round(h / aspect / multiple) * multiple)) for h in heights]
    return min(sizes, key=lambda s: 2 * abs(math.log(s[0] / s[1] / aspect)) + abs(math.log(s[0] * s[1] / area)))


class GenProp:
    """A base with adapters, ready to propagate edits. `adapters` None runs plain SVD.

    offload: only the part in use is on the device, the others wait in the CPU's memory.
    """

    def __init__(self, base: Base, adapters: AdapterFile | None = None, device="cpu", offload: bool = False):
        if adapters is not None:
            adapters.check(base.fingerprint())
        self.base, self.file, self.placement = base, adapters, Placement(device, offload)
        self.device, self.dtype = self.placement.device, next(base.unet.parameters()).dtype
        self.adapters = adapters.adapters.to(self.dtype) if adapters is not None else None
        with self.explained("loading", "the base"):
            self.placement.settle(*base.parts(), *self._given(self.adapters))

    @classmethod
    def from_files(
        cls, base="mini", adapters=None, *, dtype=torch.float32, device="cpu", vae=None, offload=False
    ) -> "GenProp":
        """base: "mini", an SVD folder or file. adapters: a file; by default those that ship with the base.

        adapters=False loads plain SVD without adapters. vae: another VAE file (TAESD) to use instead of the base's.
        """
        if adapters is None:
            adapters = default_adapters(base)
            if adapters is None:
                raise GenPropError(
                    f"Expected an adapter file for the base {base}. Give adapters=FILE (--adapters FILE)."
                )
        with explained("loading", f"the base {base}", {"offload"} | ({"dtype"} if dtype != torch.float32 else set())):
            loaded = load_base(base, dtype, vae)
            file = load_adapters(adapters, dtype) if adapters is not False else None
        return cls(loaded, file, device, offload)

    @staticmethod
    def _given(*modules) -> list:
        return [m for m in modules if m is not None]

    def explained(self, doing: str, what: str, *settled: str):
        """Names the settings that help when memory runs out; settled: those that are at their best already."""
        here = {"dtype": self.dtype != torch.float32, "vae": type(self.base.vae).__name__ == "AutoencoderTiny",
                "offload": self.placement.offload or self.device.type == "cpu"}  # fmt: skip
        return explained(doing, what, {*settled, *(name for name, done in here.items() if done)})

    def working_size(self, height: int, width: int, settings: PropagateSettings) -> tuple[int, int]:
        """(height, width) the base works at for a source of this size: same aspect, the base's area."""
        multiple, defaults = self.base.size_multiple, self.base.defaults
        given = (settings.height, settings.width)
        if any(given):
            if not all(given) or any(v % multiple or v < multiple for v in given):
                raise GenPropError(
                    f"Expected --width and --height together, both multiples of {multiple} for this base, "
                    f"got {settings.width} x {settings.height}."
                )
            return given
        return nearest_size(height / width, defaults.width * defaults.height, multiple)

    def condition(self, source, keyframe, settings: PropagateSettings, seed: int, region=None) -> cond.Condition:
        """source [T,3,H,W], keyframe [3,H,W], or [T,3,H,W] with the one of each frame -> Condition of batch 1.

        Both in [0,1] at the working size. The CLIP embedding is the first frame's keyframe's. region: [T,1,H/8,W/8],
        see `Condition.region`, or None.
        """
        keyframe, of_frame = cond.distinct(keyframe, len(source))
        source, keyframe = source * 2 - 1, keyframe * 2 - 1
        noisy = cond.augment_keyframe(keyframe, settings.noise_augmentation, seed)
        with self.placement.use(self.base.vae):
            image = cond.encode_frames(self.base.vae, noisy, scaled=False)[of_frame][None]
            latents = torch.zeros_like(image)  # plain SVD never looks at the source
            if self.adapters is not None:
                latents = cond.encode_frames(self.base.vae, source, scaled=True)[None]
        with self.placement.use(self.base.image_encoder):
            clip = cond.clip_embedding(self.base.image_encoder, keyframe[:1])
        defaults = self.base.defaults
        fps = defaults.fps if settings.fps is None else settings.fps
        bucket = defaults.motion_bucket if settings.motion_bucket is None else settings.motion_bucket
        task = self.adapters.task_index(settings.task) if self.adapters is not None else 0
        micro = cond.micro_conditions(fps, bucket, settings.noise_augmentation)
        region = None if region is None else region[None]
        return cond.Condition(image, clip, micro, torch.tensor([task]), latents, image, region).to(self.device)

    @torch.no_grad()
    def sample(self, condition, noise, sampler: SamplerSettings, progress):
        """`sampler.sample`, with the SCE on the device only while it is needed."""
        adapters = self.adapters
        with self.placement.use(*self._given(adapters)):
            features = SourceFeatures(None, None) if adapters is None else source_features(adapters, condition)
        static = features.injected is not None
        own = [adapters.injections, adapters.mpd] if static else self._given(adapters)
        with self.placement.use(self.base.unet, *own):
            return sample(self.base.unet, adapters, condition, noise.to(self.device), sampler, progress, features)

    def resolved(self, settings: PropagateSettings | None = None) -> PropagateSettings:
        """The settings with the base's own denoising steps, guidance and lowest noise level where they name none."""
        settings, defaults = settings or PropagateSettings(), self.base.defaults
        own = {n: getattr(defaults, n) for n in SAMPLED if getattr(settings.sampler, n) is None}
        return replace(settings, sampler=replace(settings.sampler, **own)) if own else settings

    def _clip_settings(self, frames, settings: PropagateSettings) -> ClipSettings:
        size = self.working_size(*frames.shape[-2:], settings)
        return replace(settings.clip, window=settings.window, seed=settings.seed, size=size)

    @torch.no_grad()
    def propagate(
        self, frames, keyframe, settings: PropagateSettings | None = None, progress=None, noise=None, mask=None
    ) -> Result:
        """frames [T,3,H,W] and keyframe [3,H,W], uint8 or float in [0,1]. T frames in, T frames out.

        keyframe: the edited first frame, or {index: frame} for others and for several; another size is resized. A clip
        longer than the base's window is made window by window (long_clip). progress(done, total) counts UNet steps.
        noise: unit noise in pieces [1,t,4,h,w] that cover the clip, instead of the seed's. mask: [1 or T,1,H,W] instead
        of the predicted one, or joined with it. Nothing is composited, and the frames keep every bit.
        """
        settings = self.resolved(settings)
        check_clip(frames)
        windows, clip = HeadlessWindows(self, settings), self._clip_settings(frames, settings)
        stretched = Fit(tuple(frames.shape[-2:]), clip.size, clip.size)
        view, keyframes, shots = checked(windows, frames, keyframe, clip, mask, stretched)
        made = make(windows, view, keyframes, shots, clip, progress, noise, torch.float32)
        latents = None
        if len(made.windows) == 1 and windows.latents.shape[1] == len(frames):
            (first, last), latents = made.windows[0], windows.latents[0]
            latents = latents.flip(0) if first > last else latents  # it ran backward, from a keyframe at the end
        return Result(
            made.frames,
            made.mask if self.adapters is not None else None,
            latents,
            windows.seconds,
            {"windows": len(made.windows)},
            sorted(made.seams),
        )

    @torch.no_grad()
    def propagate_clip(
        self, frames, keyframes, settings: PropagateSettings | None = None, mask=None, progress=None, finishing=None
    ) -> ClipResult:
        """Like `propagate`, for clips to keep: the result is uint8 at the source's size, after all of settings.clip.

        finishing(done, total) counts what comes after the last UNet step: see `long_clip.propagate_clip`.
        """
        settings = self.resolved(settings)
        check_clip(frames)
        windows, clip = HeadlessWindows(self, settings), self._clip_settings(frames, settings)
        result = propagate_clip(windows, frames, keyframes, clip, mask, progress, finishing)
        result.seconds = windows.seconds
        return result
