"""What the adapters cost: the denoising loop with a static or fused SCE against plain SVD's, on the mini.

All loops make the same window with the same noise and guidance. `diffusers` is its own pipeline, given the encoded
keyframe; `per_step` is the earlier public design, which encodes the source by the VAE, as diffusers calls it, and runs
the SCE at every step.
Beside each ratio stands the one that counted FLOPs predict.
"""

import sys

import torch

from genprop_core import conditioning as cond
from genprop_core.adapters import GenPropAdapters
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings, sample, source_features, unit_noise

from .common import clock, facts, flops_of_steps, medians, parser, sample_clip, show
from .timing import interleave, ratio

RATIOS = {
    "plain_over_diffusers": ("plain", "diffusers"),
    "static_over_plain": ("static", "plain"),
    "static_over_fused": ("static", "fused"),
    "static_over_per_step": ("static", "per_step"),
    "fused_over_static": ("fused", "static"),
    "per_step_over_static": ("per_step", "static"),
}


def diffusers_loop(model: GenProp, condition, noise, frames: int):
    """loop(steps) of diffusers' StableVideoDiffusionPipeline, with the condition that is encoded already."""
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    scheduler = EulerDiscreteScheduler(
        sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True, timestep_type="continuous",
        timestep_spacing="leading", prediction_type="v_prediction", interpolation_type="linear",
    )  # fmt: skip
    base = model.base
    pipe = StableVideoDiffusionPipeline(base.vae, base.image_encoder, base.unet, scheduler, CLIPImageProcessor())
    pipe.set_progress_bar_config(disable=True)
    image, clip = condition.image_latents[:, 0], condition.clip
    pipe._encode_vae_image = lambda *a, **k: torch.cat([torch.zeros_like(image), image])
    pipe._encode_image = lambda *a, **k: torch.cat([torch.zeros_like(clip), clip])
    height, width = 8 * noise.shape[-2], 8 * noise.shape[-1]
    picture = torch.zeros(1, 3, height, width)

    def loop(steps):
        return pipe(
            picture, height, width, frames, steps, min_guidance_scale=1.0, max_guidance_scale=3.0, fps=7,
            latents=noise, output_type="latent",
        ).frames  # fmt: skip

    return loop


def loops(model: GenProp):
    """{name: loop(steps)} of every variant, and what else there is to be timed: {name: function}."""
    source, keyframe = sample_clip()
    settings = PropagateSettings()
    fused = GenPropAdapters.from_unet(model.base.unet, sce="fused").eval()
    condition = model.condition(source, keyframe, settings, 0)
    noise = unit_noise(condition.image_latents.shape, 0)

    def ours(adapters, progress=None):
        return lambda steps: sample(
            model.base.unet, adapters, condition, noise, SamplerSettings(steps=steps), progress
        )[0]

    def encode_again(step, steps):
        if step < steps:  # what the first step starts from is encoded apart, as for all variants
            model.base.vae.encode(source * 2 - 1)  # without our memory layout, which is no part of that design
            source_features(model.adapters, condition)

    variants = {
        "diffusers": diffusers_loop(model, condition, noise, len(source)),
        "plain": ours(None),
        "static": ours(model.adapters),
        "fused": ours(fused),
        "per_step": ours(model.adapters, encode_again),
    }
    latents = ours(None)(1)[0]
    return variants, {
        "encode": lambda: model.condition(source, keyframe, settings, 0),
        "decode": lambda: cond.decode_latents(model.base.vae, latents),
    }


def measure(steps: int, rounds: int) -> dict:
    """Seconds of the loops (one window of the sample clip, guidance on), encode and decode apart, and their ratios."""
    model = GenProp.from_files("mini")
    variants, others = loops(model)
    counted = {name: flops_of_steps(loop, steps) for name, loop in variants.items()}
    with torch.no_grad():
        runs = {name: (lambda loop=loop: loop(steps)) for name, loop in variants.items()}
        seconds = interleave(runs | others, rounds, clock())
        plain, theirs = variants["plain"](2), variants["diffusers"](2)
    return facts(model) | {
        "steps": steps,
        "rounds": rounds,
        "seconds": medians(seconds),
        "tera_flops": {name: value / 1e12 for name, value in counted.items()},
        "difference_from_diffusers": float((plain - theirs).abs().max() / theirs.abs().max()),
        "ratios": {name: ratio(seconds, *pair) for name, pair in RATIOS.items()},
        "predicted": {name: counted[a] / counted[b] for name, (a, b) in RATIOS.items()},
    }


def main(argv=None) -> int:
    arguments = parser("sampling", __doc__)
    arguments.add_argument("--steps", type=int, default=25)
    given = arguments.parse_args(argv)
    steps, rounds = (2, 1) if given.quick else (given.steps, given.rounds)
    return show(measure(steps, rounds), given.json, given.quick)


if __name__ == "__main__":
    sys.exit(main())
