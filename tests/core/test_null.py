"""Fresh adapters and strength 0 are plain SVD to the last bit; plain SVD is diffusers' own pipeline."""

from unittest import mock

import torch
from PIL import Image
from tiny import tiny_condition, tiny_image_encoder, tiny_temporal_vae, tiny_unet

from genprop_core import edm
from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.sampler import SamplerSettings, sample, unit_noise


def _randomise(adapters, seed=3):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=g))
    return adapters


def test_fresh_adapters_and_strength_zero_change_nothing():
    unet, condition, noise = tiny_unet(), tiny_condition(), unit_noise((1, 4, 4, 8, 8), 0)
    settings = SamplerSettings(steps=3)
    plain, mask = sample(unet, None, condition, noise, settings)
    assert mask is None
    fresh = GenPropAdapters.from_unet(unet)
    assert torch.equal(plain, sample(unet, fresh, condition, noise, settings)[0])
    trained = _randomise(GenPropAdapters.from_unet(unet))
    assert not torch.allclose(plain, sample(unet, trained, condition, noise, settings)[0], atol=1e-3)
    assert torch.equal(plain, sample(unet, trained, condition, noise, SamplerSettings(steps=3, strength=0.0))[0])
    assert torch.equal(plain, sample(unet, None, condition, noise, settings)[0])


def test_attaching_leaves_no_trace_even_after_an_error():
    unet = tiny_unet()
    hooks = {name: len(m._forward_hooks) for name, m in unet.named_modules()}
    try:
        with attach(unet, 2):
            raise RuntimeError("stop")
    except RuntimeError:
        pass
    assert hooks == {name: len(m._forward_hooks) for name, m in unet.named_modules()}


def test_plain_sampling_is_diffusers_pipeline():
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    from genprop_core.base import Base, Defaults
    from genprop_core.conditioning import SCALING, augment_keyframe, decode_latents
    from genprop_core.pipeline import GenProp, PropagateSettings

    unet, vae, encoder = tiny_unet(), tiny_temporal_vae(), tiny_image_encoder()
    scheduler = EulerDiscreteScheduler(
        sigma_min=0.002,
        sigma_max=700.0,
        use_karras_sigmas=True,
        timestep_type="continuous",
        timestep_spacing="leading",
        prediction_type="v_prediction",
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
    )
    pipe = StableVideoDiffusionPipeline(vae, encoder, unet, scheduler, CLIPImageProcessor())
    pipe.set_progress_bar_config(disable=True)
    picture = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    keyframe = picture.movedim(-1, 0)  # [H,W,C] -> [C,H,W]
    noise = unit_noise((1, 4, 4, 8, 8), 0)
    base = Base("tiny", unet, vae, encoder, Defaults(num_frames=4, width=64, height=64))
    settings = PropagateSettings(sampler=SamplerSettings(steps=4), seed=11, decode_chunk=4)
    ours = GenProp(base).propagate(keyframe.expand(4, -1, -1, -1), keyframe, settings, noise=[noise])

    aug = augment_keyframe(torch.zeros(1, 3, 64, 64), 1.0, 11)
    with mock.patch(
        "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion.randn_tensor", lambda *a, **k: aug
    ):
        theirs = pipe(
            Image.fromarray(picture.numpy()),
            height=64,
            width=64,
            num_frames=4,
            num_inference_steps=4,
            min_guidance_scale=1.0,
            max_guidance_scale=3.0,
            fps=7,
            motion_bucket_id=127,
            noise_aug_strength=0.02,
            decode_chunk_size=4,
            latents=noise,
            output_type="latent",
        ).frames
    assert (ours.latents - theirs[0]).abs().max() < 1e-4
    frames = vae.decode(theirs[0] / SCALING, num_frames=4).sample
    assert (ours.frames - (frames / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-4
    assert torch.equal(decode_latents(vae, ours.latents, 4), ours.frames)


def test_sigmas_are_diffusers_sigmas():
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        sigma_min=0.002,
        sigma_max=700.0,
        use_karras_sigmas=True,
        timestep_type="continuous",
        prediction_type="v_prediction",
        interpolation_type="linear",
    )
    scheduler.set_timesteps(25)
    torch.testing.assert_close(scheduler.sigmas, edm.karras_sigmas(25), rtol=1e-5, atol=0)
    assert abs(float(scheduler.init_noise_sigma) - edm.initial_noise_scale()) < 1e-3
