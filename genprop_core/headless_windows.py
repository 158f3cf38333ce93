"""One window by the headless pipeline: encode, sample, decode, with the seconds each took."""

import time

from . import conditioning as cond
from .config import REMOVE
from .errors import GenPropError

PHASES = ("encode", "sce_and_loop", "decode")


class HeadlessWindows:
    """A `window_model.WindowModel` from a `GenProp` and its settings.

    seconds: what each phase took so far. latents: of the latest window, scaled [1,T,4,H/8,W/8], on the CPU.
    """

    def __init__(self, pipeline, settings):
        if settings.decode_chunk < 1:
            raise GenPropError(f"Expected --decode-chunk to be at least 1 frame, got {settings.decode_chunk}.")
        self.pipeline, self.settings = pipeline, settings
        self.default_frames, self.size_multiple = pipeline.base.defaults.num_frames, pipeline.base.size_multiple
        self.removes = settings.task == REMOVE
        self.seconds, self.latents = dict.fromkeys(PHASES, 0.0), None

    def run(self, source, keyframe, *, noise, region=None, guided=True, progress=None):
        """See `WindowModel.run`. Running out of memory is one line that names the settings that help."""
        pipeline, settings, vae = self.pipeline, self.settings, self.pipeline.base.vae
        frames, _, height, width = source.shape
        what, clock = f"{frames} frames at {width}x{height}", [time.perf_counter()]
        with pipeline.explained("encoding", what):
            condition = pipeline.condition(source, keyframe, settings, settings.seed, region)
        clock.append(time.perf_counter())
        with pipeline.explained("sampling", what):
            sampler = settings.sampler if guided else settings.sampler.unguided()
            latents, mask = pipeline.sample(condition, noise, sampler, progress)
        clock.append(time.perf_counter())
        chunk = settings.decode_chunk
        with pipeline.explained("decoding", what, *["decode_chunk"] * (chunk == 1)), pipeline.placement.use(vae):
            made = cond.decode_latents(vae, latents[0], chunk).cpu()
        clock.append(time.perf_counter())
        for name, start, stop in zip(PHASES, clock, clock[1:]):
            self.seconds[name] += stop - start
        self.latents = latents.cpu()
        return made, None if mask is None else mask[0].cpu()
