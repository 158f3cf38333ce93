"""Solvers, guidance only where it matters, and blending with what is known."""

import math

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core import edm
from genprop_core.adapters import GenPropAdapters
from genprop_core.errors import GenPropError
from genprop_core.sampler import GUIDES, Known, SamplerSettings, guide_edit_only, sample, unit_noise


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


def run(settings, adapters=None, known=None, change=lambda adapters: None, **config):
    unet = tiny_unet()
    if adapters:
        adapters = GenPropAdapters.from_unet(unet, **config)
        with torch.no_grad():
            for parameter in adapters.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        change(adapters)
    rows = []
    handle = unet.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    made = sample(unet, adapters or None, tiny_condition(), unit_noise((1, 4, 4, 8, 8), 0), settings, known=known)
    handle.remove()
    return *made, rows


def test_guidance_is_taken_back_where_the_source_is_kept():
    g = torch.Generator().manual_seed(0)
    empty, full = (torch.randn(1, 4, 4, 8, 8, generator=g) for _ in range(2))
    edited, scale = torch.rand(1, 4, 1, 8, 8, generator=g), edm.linear_guidance(1.0, 3.0, 4)
    guided = empty + scale * (full - empty)
    before = full.clone(), guided.clone(), edited.clone()
    torch.testing.assert_close(
        guide_edit_only(guided, full, edited), empty + (1 + (scale - 1) * edited) * (full - empty)
    )
    torch.testing.assert_close(guide_edit_only(guided, full, torch.zeros_like(edited)), full)
    torch.testing.assert_close(guide_edit_only(guided, full, torch.ones_like(edited)), guided)
    half = guide_edit_only(guided, full, torch.zeros_like(edited), 0.5)
    torch.testing.assert_close(half, (full + guided) / 2)
    assert guide_edit_only(guided, full, edited, 0.0) is guided and guide_edit_only(guided, full, None) is guided
    assert guide_edit_only(guided.half(), full.half(), edited).dtype == torch.float16
    assert all(torch.equal(a, b) for a, b in zip(before, (full, guided, edited)))


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_a_source_that_is_kept_everywhere_is_sampled_without_guidance(sce):
    def keep(adapters):
        if adapters.selection is not None:
            torch.nn.init.zeros_(adapters.selection.out.weight)
            torch.nn.init.constant_(adapters.selection.out.bias, -60.0)

    edit = run(SamplerSettings(steps=4), True, change=keep, sce=sce)[0]
    everywhere = run(SamplerSettings(steps=4, guide="everywhere"), True, change=keep, sce=sce)[0]
    unguided = run(SamplerSettings(steps=4, max_cfg=1.0), True, change=keep, sce=sce)[0]
    torch.testing.assert_close(edit, unguided, rtol=0, atol=1e-4)
    assert not torch.allclose(edit, everywhere, rtol=0, atol=1e-2)
    # without a selection nothing says where the source is kept
    without = {"sce": sce, "selection": False, "show_source": False}
    one, other = (run(SamplerSettings(steps=4, guide=g), True, **without)[0] for g in GUIDES)
    assert torch.equal(one, other)


def test_guidance_acts_in_one_of_two_places():
    with pytest.raises(GenPropError, match="Expected guidance in one of edit, everywhere, got 'mask'"):
        SamplerSettings(guide="mask")


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


@pytest.mark.parametrize(("given", "lowest"), [({}, edm.SIGMA_MIN), ({"sigma_min": 0.2}, 0.2)])
def test_the_last_step_is_at_the_lowest_noise_level(given, lowest):
    levels, unet = [], tiny_unet()
    unet.register_forward_pre_hook(lambda module, args: levels.append((4 * args[1][0]).exp().item()))
    settings = SamplerSettings(steps=3, max_cfg=1.0, **given)
    sample(unet, None, tiny_condition(), unit_noise((1, 4, 4, 8, 8), 0), settings)
    assert levels == pytest.approx(edm.karras_sigmas(3, lowest).tolist()[:-1], rel=1e-4)
    assert levels[-1] == pytest.approx(lowest, rel=1e-4)


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
