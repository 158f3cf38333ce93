"""The headless pipeline: a source clip and an edited keyframe in, the edited clip and the predicted mask out."""

import math
import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from . import conditioning as cond
from .base import Base, default_adapters, load_base
from .checkpoint import AdapterFile, load_adapters
from .errors import GenPropError
from .offload import Placement
from .out_of_memory import explained
from .sampler import SamplerSettings, sample, source_features, unit_noise
from .windows import plan_windows


@dataclass(frozen=True)
class PropagateSettings:
    """One run's settings; None means the base's default.

    width, height: pixels the base works at. window: frames per pass. task: one the adapters know. decode_chunk: frames
    decoded together; SVD's temporal decoder depends on it, so it is a setting and never adapted to the memory there is.
    """

    sampler: SamplerSettings = SamplerSettings()
    task: str = "remove"
    width: int | None = None
    height: int | None = None
    window: int | None = None
    fps: float | None = None
    motion_bucket: float | None = None
    noise_augmentation: float = cond.NOISE_AUGMENTATION
    seed: int = 0
    decode_chunk: int = 8


@dataclass
class Result:
    """frames: float32 [T,3,H,W] in [0,1] at the working size; mask: probability [T,1,H/8,W/8] or None.

    latents: scaled [T,4,H/8,W/8]; seconds: {"encode", "sce_and_loop", "decode"}; calls: {"windows"}.
    """

    frames: torch.Tensor
    mask: torch.Tensor | None
    latents: torch.Tensor
    seconds: dict = field(default_factory=dict)
    calls: dict = field(default_factory=dict)


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[N,3,h,w] -> [N,3,height,width], antialiased bicubic in [0,1]; unchanged when the size is the same."""
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def nearest_size(aspect: float, area: int, multiple: int) -> tuple[int, int]:
    """(height, width) in multiples of `multiple`, near this aspect (height / width) and, half as much, this area."""
    heights = [k * multiple for k in range(1, math.ceil((area * max(aspect, 1)) ** 0.5 / multiple) + 2)]
    sizes = [(h, max(multiple, round(h / aspect / multiple) * multiple)) for h in heights]
    return min(sizes, key=lambda s: 2 * abs(math.log(s[0] / s[1] / aspect)) + abs(math.log(s[0] * s[1] / area)))


def as_float(frames: torch.Tensor) -> torch.Tensor:
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()


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
        with self._explained("loading", "the base"):
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

    def _explained(self, doing: str, what: str, *settled: str):
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

    def condition(self, source, keyframe, settings: PropagateSettings, seed: int) -> cond.Condition:
        """source [T,3,H,W], keyframe [3,H,W], both in [0,1] at the working size -> Condition of batch 1."""
        frames = source.shape[0]
        source, keyframe = source * 2 - 1, keyframe[None] * 2 - 1
        noisy = cond.augment_keyframe(keyframe, settings.noise_augmentation, seed)
        with self.placement.use(self.base.vae):
            image = cond.repeat_over_frames(cond.encode_frames(self.base.vae, noisy, scaled=False), frames)
            latents = torch.zeros_like(image)  # plain SVD never looks at the source
            if self.adapters is not None:
                latents = cond.encode_frames(self.base.vae, source, scaled=True)[None]
        with self.placement.use(self.base.image_encoder):
            clip = cond.clip_embedding(self.base.image_encoder, keyframe)
        defaults = self.base.defaults
        fps = defaults.fps if settings.fps is None else settings.fps
        bucket = defaults.motion_bucket if settings.motion_bucket is None else settings.motion_bucket
        task = self.adapters.task_index(settings.task) if self.adapters is not None else 0
        micro = cond.micro_conditions(fps, bucket, settings.noise_augmentation)
        return cond.Condition(image, clip, micro, torch.tensor([task]), latents, image).to(self.device)

    @torch.no_grad()
    def _sample(self, condition, noise, sampler: SamplerSettings, progress):
        """`sampler.sample`, with the SCE on the device only while it is needed."""
        adapters = self.adapters
        with self.placement.use(*self._given(adapters)):
            injected = source_features(adapters, condition)
        own = self._given(adapters) if injected is None else [adapters.injections, adapters.mpd]
        with self.placement.use(self.base.unet, *own):
            return sample(self.base.unet, adapters, condition, noise.to(self.device), sampler, progress, injected)

    @torch.no_grad()
    def propagate(
        self, frames, keyframe, settings: PropagateSettings | None = None, progress=None, noise=None
    ) -> Result:
        """frames [T,3,H,W] and keyframe [3,H,W], uint8 or float in [0,1]. T frames in, T frames out.

        The keyframe is the edited first frame; another size is resized. A clip longer than the base's window is made
        window after window, each continuing from the last frame before it. progress(done, total) counts UNet steps.
        noise: unit noise [windows][1,T,4,h,w] instead of the seed's.
        """
        settings = settings or PropagateSettings()
        frames, keyframe = as_float(frames), as_float(keyframe)
        if frames.ndim != 4 or frames.shape[0] < 2:
            raise GenPropError(f"Expected a clip of at least 2 frames [T,3,H,W], got shape {tuple(frames.shape)}.")
        check_aspect(keyframe.shape[-2:], frames.shape[-2:])
        if settings.decode_chunk < 1:
            raise GenPropError(f"Expected --decode-chunk to be at least 1 frame, got {settings.decode_chunk}.")
        height, width = self.working_size(*frames.shape[-2:], settings)
        source, current = resize(frames, height, width), resize(keyframe[None], height, width)[0]
        plan = plan_windows(len(source), settings.window or self.base.defaults.num_frames)
        out = Result(source.clone(), None, source.new_zeros(len(source), 4, height // 8, width // 8))
        out.seconds, out.calls = dict.fromkeys(("encode", "sce_and_loop", "decode"), 0.0), {"windows": len(plan)}
        masks = source.new_zeros(len(source), 1, height // 8, width // 8)
        for index, (start, stop, new) in enumerate(plan):
            if index:
                current = out.frames[start]
            clock, what = time.perf_counter(), f"{stop - start} frames at {width}x{height}"
            with self._explained("encoding", what):
                condition = self.condition(source[start:stop], current, settings, settings.seed + index)
            shape = condition.image_latents.shape
            unit = noise[index] if noise is not None else unit_noise(shape, settings.seed + index)
            encoded = time.perf_counter()
            step = None if progress is None else (lambda s, n, i=index: progress(i * n + s, len(plan) * n))
            with self._explained("sampling", what):
                latents, mask = self._sample(condition, unit, settings.sampler, step)
            looped = time.perf_counter()
            chunk = settings.decode_chunk
            with self._explained("decoding", what, *["decode_chunk"] * (chunk == 1)), self.placement.use(self.base.vae):
                made = cond.decode_latents(self.base.vae, latents[0], chunk).cpu()
            for name, value in zip(out.seconds, (encoded - clock, looped - encoded, time.perf_counter() - looped)):
                out.seconds[name] += value
            out.frames[new:stop], out.latents[new:stop] = made[new - start :], latents[0, new - start :].cpu()
            if mask is not None:
                masks[new:stop] = mask[0, new - start :].cpu()
        out.mask = masks if self.adapters is not None else None
        return out


def check_aspect(keyframe, frames, tolerance=0.02):
    """Raises GenPropError when the keyframe's (height, width) has another aspect ratio than the frames'."""
    ratio = (keyframe[1] / keyframe[0]) / (frames[1] / frames[0])
    if abs(ratio - 1) > tolerance:
        raise GenPropError(
            f"Expected a keyframe of the source's aspect ratio ({frames[1]}x{frames[0]}), "
            f"got {keyframe[1]}x{keyframe[0]}. Edit an exported frame of the source, without cropping it."
        )
