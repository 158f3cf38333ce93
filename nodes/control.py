"""Native patching: GenProp's injection as a ComfyUI control.

A control brings scheduling, chaining with ControlNets, clean-up and memory accounting; core loads and offloads what
`get_models` names. Both branches of the guidance carry the same control, so core may batch them or run them apart.
"""
import comfy.model_management as mm
import torch
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

from ..genprop_core import edm
from ..genprop_core.errors import GenPropError
from ..genprop_core.sampler import guide_edit_only
from .mask_recorder import frames_of_call
from .sockets import Adapters, Segment

KEY = "genprop"


def without_keyframe(image, branches) -> torch.Tensor:
    """Which branches of a call are SVD's empty one: bools [branches], True where the image condition is all zero.

    image: [branches*T,4,h,w]. A branch's number does not tell it: guiders of three branches or of two models, and
    patches that run a branch once more, have numbers of their own. Nothing here waits for the device.
    """
    return (image == 0).reshape(branches, -1).all(dim=1)


class GenPropControl(ControlBase):
    """Adds the SCE's injections of one segment to the UNet's input blocks.

    `strength` of the base class stays 1: core multiplies by it in place. Ours is `injection_strength`.
    """

    def __init__(self, adapters: Adapters, segment: Segment, strength=1.0, start=0.0, end=1.0):
        super().__init__()
        self.adapters, self.segment, self.injection_strength = adapters, segment, strength
        self.timestep_percent_range = (start, end)
        self.release()

    def release(self):
        """Forgets everything that belongs to one run."""
        self.model, self.on_device = None, None

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.release()
        self.model = model

    def cleanup(self):
        super().cleanup()
        self.release()

    def get_models(self):
        return super().get_models() + [self.adapters.patcher]

    def inference_memory_requirements(self, dtype):
        features = sum(f.nbytes for f in self.segment.features.injected or [] if f is not None)
        return super().inference_memory_requirements(dtype) + 4 * features  # kept, gated, and that for both branches

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        index, anchors = frames_of_call(transformer_options, len(self.segment.frames))
        if anchors and "num_video_frames" in cond:
            cond["num_video_frames"] = len(index)  # core leaves the frame of its causal fix out of the count
        if not self.counts_at(t):
            return previous
        self._check(index, x_noisy, batched_number)
        c_noise = edm.scalings(t[:1].float())[3].to(x_noisy.device)
        drop = without_keyframe(cond["c_concat"], batched_number).to(x_noisy.device)
        if self.segment.features.injected is None:
            taps = self._fused(x_noisy, t, cond, index, c_noise, drop)
        else:
            module, frames = self.adapters.patcher.model, len(self.segment.frames)
            features = self._features(x_noisy.device)
            if len(index) != frames:
                features = [f if f is None else f[index] for f in features]
            taps = module.gated(features, c_noise, len(index), self.injection_strength, drop)
            copies = [1 if f is None else len(x_noisy) // len(f) for f in taps]
            taps = [f if f is None else f.repeat(n, 1, 1, 1) for f, n in zip(taps, copies)]
        # core pops from the end (block 0 comes last), but merges chained controls from the start
        base = self.adapters.base
        blocks = len(base.block_out_channels) * (base.layers_per_block + 1)
        return self.control_merge({"input": [None] * (blocks - len(taps)) + taps[::-1]}, previous, output_dtype=None)

    def counts_at(self, sigma) -> bool:
        """Whether the source counts at this noise level [n]: by strength, start and end."""
        first, last = self.timestep_range or (sigma[0], sigma[0])
        return self.injection_strength != 0 and bool(last <= sigma[0] <= first)

    def guide_edit_only(self, args) -> torch.Tensor:
        """A post-CFG function: takes the guidance back where the source is kept, whatever node set it."""
        denoised, edited = args["denoised"], self.segment.features.edited
        if edited is None or not self.counts_at(args["sigma"]):
            return denoised
        return guide_edit_only(denoised, args["cond_denoised"], edited[0].to(denoised.device), self.injection_strength)

    def _check(self, index, x_noisy, batched_number):
        """Raises GenPropError for latents that are not these frames', which core would only log, or elsewhere."""
        home = next(self.adapters.patcher.model.parameters()).device
        if x_noisy.device != home:
            raise GenPropError(
                f"Expected a MODEL on {home}, where the adapters are, got one on {x_noisy.device}. Put Select Model "
                "Device before GenProp Apply."
            )
        own = self.segment.condition.source.shape[1:]  # T,4,h,w
        expected, got = (batched_number * len(index), *own[1:]), tuple(x_noisy.shape)
        if got != expected:
            frames, size = got[0] // batched_number, f"{got[-1] * 8}x{got[-2] * 8}"
            raise GenPropError(
                f"Expected latents of {len(index)} frames at {own[3] * 8}x{own[2] * 8}, as this GenProp condition was "
                f"encoded, got {frames} at {size}. Use GenProp Apply's latent, or encode the condition at that size."
            )

    def _features(self, device):
        if self.on_device is not None:
            return self.on_device
        stored = self.segment.features.injected
        moved = [f if f is None else f.to(device) for f in stored]
        needed = sum(f.nbytes for f in stored if f is not None)
        if device.type == "cpu" or mm.get_free_memory(device) > 2 * needed:
            self.on_device = moved  # else they come from the CPU's memory at every step
        return moved

    def _fused(self, x_noisy, t, cond, index, c_noise, drop):
        """The fused SCE, on the UNet's own first features of every branch."""
        module, base = self.adapters.patcher.model, self.model
        scaled = base.model_sampling.calculate_input(t, x_noisy)
        dtype = base.manual_cast_dtype or base.get_dtype()
        picture = cond["c_concat"].to(scaled.device, scaled.dtype)
        first = base.diffusion_model.input_blocks[0][0](torch.cat([scaled, picture], dim=1).to(dtype))
        own, copies = next(module.parameters()).dtype, len(drop)
        part = self.segment.condition.to(x_noisy.device)

        def repeated(value):
            return value.repeat(copies, *[1] * (value.ndim - 1))

        levels = c_noise.expand(copies)
        made = module.encode(
            repeated(part.source[:, index]).to(own), repeated(part.keyframe[:, index]).to(own),
            repeated(part.clip).to(own), repeated(part.micro), repeated(part.task), first.to(own), levels,
            region=None if part.region is None else repeated(part.region[:, index]),
        )  # fmt: skip
        return module.gated(made, levels, len(index), self.injection_strength, drop)

    def __deepcopy__(self, memo):
        """Itself: ComfyUI 0.3 copies all that a MODEL's options hold with every clone, adapters and features too, and
        core would tell the copy nothing of the run."""
        return self

    def deepclone_multigpu(self, load_device, autoregister=False):
        raise GenPropError(
            "Expected a MODEL on one GPU for GenProp, got one that is spread over several. Take the node that spreads "
            "it out of the MODEL's way."
        )


def patch_model(model: ModelPatcher, controls) -> ModelPatcher:
    """A clone that makes the controls forget a run at its end, also when it was cancelled: core cleans controls up
    only after a run that went through."""
    patched = model.clone()
    patched.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)

    def release(patcher):
        for control in controls:
            control.release()

    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, release)
    return patched
