"""Reads the mask while ComfyUI samples."""
import torch

from .sockets import Adapters


def frames_of_call(transformer_options, frames) -> tuple[list[int], int]:
    """(indices of the frames in a call of the UNet, how many of the first are no part of its result).

    All of them and none, unless a context window is at work. Core's causal fix shows a window the frame before it too,
    and takes that one off again.
    """
    window = transformer_options.get("context_window")
    if window is None:
        return list(range(frames)), 0
    anchor = getattr(window, "causal_anchor_index", None)  # ComfyUI 0.3 has none
    before = [] if anchor is None or anchor < 0 else [anchor]
    return [*before, *window.index_list], len(before)


class MaskRecorder:
    """Output block patch that decodes the mask from the conditional branch, averaged over the noise levels it sees.

    below: only noise levels up to this one count. It reads `h` on entry to the first output block of the last level,
    which is the penultimate up block's output in diffusers' words. Only the guidance's own calls count: patches such as
    Perturbed-Attention Guidance run a branch once more after them, changed.
    """

    def __init__(self, adapters: Adapters, frames: int, below: float):
        base = adapters.base
        self.block = (len(base.block_out_channels) - 1) * (base.layers_per_block + 1)
        self.module, self.frames, self.below = adapters.patcher.model, frames, below * (1 + 1e-4)
        self.levels = {}  # noise level -> {frame: probabilities of every call}
        self.listening = True

    def attach(self, model):
        """Sets the patch on a clone of ours, behind every patch that it has already."""
        model.set_model_output_block_patch(self)
        model.set_model_sampler_pre_cfg_function(self._branches_done)
        model.set_model_sampler_post_cfg_function(self._step_done)

    def _branches_done(self, args):
        self.listening = False
        return args["conds_out"]

    def _step_done(self, args):
        self.listening = True
        return args["denoised"]

    def __call__(self, h, hsp, transformer_options):
        if self.listening and transformer_options["block"] == ("output", self.block):
            self.record(h, transformer_options)
        return h, hsp

    def record(self, h, transformer_options):
        sigma, branches = float(transformer_options["sigmas"][0]), transformer_options["cond_or_uncond"]
        if sigma > self.below or 0 not in branches:
            return
        features = h.chunk(len(branches))[branches.index(0)]
        index, before = frames_of_call(transformer_options, self.frames)
        made = self.module.mpd(features, len(features))[0].float().sigmoid().cpu()  # [T,1,h,w]
        level = self.levels.setdefault(sigma, {})
        for frame, probability in zip(index[before:], made[before:]):
            level.setdefault(frame, []).append(probability)

    def probability(self) -> torch.Tensor | None:
        """[T,1,h,w] float32, or None when nothing was seen: a compiled UNet may leave patches out."""
        if not self.levels:
            return None
        frames = range(self.frames)
        means = [torch.stack([torch.stack(level[f]).mean(0) for f in frames]) for level in self.levels.values()]
        return torch.stack(means).mean(0)
