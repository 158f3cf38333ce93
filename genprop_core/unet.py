"""One call of a diffusers SVD UNet, with our injections: the function that training and sampling share."""

import torch

from . import edm
from .conditioning import Condition


def denoise(
    unet, x, sigma, condition: Condition, taps=None, adapters=None, injected=None, strength=1.0, drop=None, dtype=None
):
    """Denoised latents D(x; sigma) [B,T,4,h,w], in x's dtype.

    sigma: [B]. taps: of `attach`, with `adapters` and `injected` (adapters.encode's list, for B or a divisor of B
    samples) in the static form; in the fused form `injected` is None and the SCE runs here, on the UNet's own first
    features. drop: optional bools [B]; True zeroes the UNet's image condition and CLIP embedding (the guidance's empty
    branch), while the SCE's features stay. dtype: of the network's input, x's when not given.
    """
    frames = x.shape[1]
    dtype = dtype or x.dtype
    if taps is not None:
        taps.batch = len(x)
    image, clip = condition.image_latents.to(dtype), condition.clip.to(dtype)
    if drop is not None:
        image = image * edm.expand(~drop, image)
        clip = clip * edm.expand(~drop, clip)

    def network(scaled, c_noise):
        if adapters is not None and adapters.config.sce == "static":
            own = next(f for f in injected if f is not None).shape[0] // frames
            taps.add = adapters.gated(injected, c_noise[:own], frames, strength, drop)
        elif adapters is not None:

            def first(features):
                made = adapters.encode(
                    condition.source.to(dtype),
                    condition.keyframe.to(dtype),
                    condition.clip,
                    condition.micro,
                    condition.task,
                    features,
                    c_noise,
                    region=condition.region,
                )
                return adapters.gated(made, c_noise, frames, strength, drop)

            taps.first = first
        return unet(
            torch.cat([scaled.to(dtype), image], dim=2),
            c_noise,
            encoder_hidden_states=clip,
            added_time_ids=condition.micro,
            return_dict=False,
        )[0]

    return edm.denoise(network, x, sigma)
