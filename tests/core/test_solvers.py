"""Solvers, guidance only where it matters, and blending with what is known."""

import math

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core import edm
from genprop_core.adapters import GenPropAdapters
from genprop_core.errors import GenPropError
from genprop_core.sampler import Known, SamplerSettings, sample, unit_noise


def ends_at(solver, steps, spread=0.7):
    """Solves the flow of Gaussian data N(0, spread^2), whose denoiser and solution are known; returns the error."""
    sigmas = edm.karras_sigmas(steps, sigma_max=80.0).double().tolist()[:-1]
    x, earlier = torch.ones((), dtype=torch.float64) * 80, (None, None)
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        denoised = x * spread**2 / (spread**2 + sigma**2)
        if solver == "euler":
            x = edm.euler_step(x, denoised, sigma, following)
        else:
            x, earlier = edm.multistep_step(x, denoised, sigma, following, *earlier), (denoised, sigma)
    exact = 80 * math.sqrt((spread**2 + 0.002**2) / (spread**2 + 80**2))
    return abs(x.item() - exact)


def test_the_multistep_solver_is_of_second_order_and_better_in_fewer_steps():
    assert ends_at("euler", 50) / ends_at("euler", 100) == pytest.approx(2, rel=0.2)
    assert ends_at("dpm++2m", 50) / ends_at("dpm++2m", 100) == pytest.approx(4, rel=0.4)
    assert ends_at("dpm++2m", 16) < ends_at("euler", 25)


def test_the_multistep_solver_starts_and_ends_with_euler_steps():
    x, denoised = torch.tensor(3.0), torch.tensor(1.0)
    assert edm.multistep_step(x, denoised, 2.0, 1.0) == edm.euler_step(x, denoised, 2.0, 1.0)
    assert edm.multistep_step(x, denoised, 2.0, 0.0, torch.tensor(9.0), 4.0) == 1.0


def run(settings, adapters=None, known=None):
    unet = tiny_unet()
    if adapters:
        adapters = GenPropAdapters.from_unet(unet)
        with torch.no_grad():
            for parameter in adapters.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    rows = []
    handle = unet.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    made = sample(unet, adapters or None, tiny_condition(), unit_noise((1, 4, 4, 8, 8), 0), settings, known=known)
    handle.remove()
    return *made, rows


def test_outside_of_the_guidance_range_there_is_one_branch():
    sigmas = edm.karras_sigmas(4).tolist()[:-1]
    every, *_, rows = run(SamplerSettings(steps=4))
    assert rows == [2] * 4
    latents, mask, rows = run(SamplerSettings(steps=4, guidance_range=(1.0, 100.0)), adapters=True)
    assert rows == [2 if 1 <= s <= 100 else 1 for s in sigmas] and 1 in rows and 2 in rows
    assert mask.shape == (1, 4, 1, 8, 8)
    never, *_, rows = run(SamplerSettings(steps=4, guidance_range=(1e6, 1e7)))
    assert rows == [1] * 4
    assert torch.equal(never, run(SamplerSettings(steps=4, max_cfg=1.0))[0]) and not torch.equal(never, every)


def test_the_source_may_stay_out_of_the_empty_branch_within_the_range_too():
    settings = SamplerSettings(steps=3, guidance_range=(0.0, 10.0), sce_in_empty_branch=False)
    one, other = run(settings, adapters=True)[0], run(SamplerSettings(steps=3, guidance_range=(0, 10.0)), True)[0]
    assert one.isfinite().all() and not torch.equal(one, other)


def test_what_is_known_stays_and_the_rest_follows():
    mask = torch.zeros(1, 4, 1, 8, 8)
    mask[..., :4] = 1
    latents = torch.full((1, 4, 4, 8, 8), 0.5)
    made, *_ = run(SamplerSettings(steps=3), known=Known(latents, mask))
    assert torch.equal(made[..., 4:], latents[..., 4:])
    assert not torch.allclose(made[..., :4], latents[..., :4], atol=1e-2)


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(GenPropError, match="solver of euler, dpm\\+\\+2m, got 'heun'"):
        SamplerSettings(solver="heun")
    with pytest.raises(GenPropError, match="LOW <= HIGH.*got 5 to 1"):
        SamplerSettings(guidance_range=(5, 1))
