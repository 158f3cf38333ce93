import math

import pytest
import torch

from genprop_core import edm, losses


def test_regions_are_averaged_per_sample_so_that_a_small_object_counts():
    target = torch.zeros(2, 1, 4, 8, 8)
    mask = torch.zeros(2, 1, 1, 8, 8)
    mask[0, ..., 0, 0] = 1  # one pixel
    mask[1, ..., :4, :] = 1  # half of the picture
    denoised = 2.0 * mask.expand_as(target)
    sigma = torch.tensor([1.0, 1.0])
    outside, inside, without = losses.reconstruction_terms(denoised, target, mask, sigma)
    assert outside == 0 and without == 0
    assert inside == pytest.approx(4.0 * 2)  # error 4, weight (1 + 1) / 1, the same for both samples


def test_the_weight_makes_every_noise_level_count_as_the_raw_output():
    g = torch.Generator().manual_seed(0)
    x, raw, wanted = (torch.randn(3, 2, 4, 4, 4, generator=g) for _ in range(3))
    sigma = torch.tensor([0.05, 1.0, 50.0])
    a = edm.denoise(lambda *_: raw, x, sigma)
    b = edm.denoise(lambda *_: wanted, x, sigma)
    outside, inside, without = losses.reconstruction_terms(a, b, torch.zeros(3, 2, 1, 4, 4), sigma)
    assert outside.item() == pytest.approx((raw - wanted).square().mean().item(), rel=1e-4)
    assert inside == 0 and without == 3  # regions without pixels contribute nothing and are counted


def test_gradient_term_by_hand():
    a = [torch.zeros(2, 3, 4, 4), None]
    b = [torch.full((2, 3, 4, 4), 0.1), None]
    mask = torch.zeros(1, 2, 1, 4, 4)
    mask[:, :, :, :2] = 1
    assert losses.gradient_term(a, b, mask, delta=0.05).item() == pytest.approx(0.5 * 0.01 / 0.0025, rel=1e-5)


@pytest.mark.parametrize("kind", ["bce_dice", "bce", "mse"])
def test_mask_loss_is_least_where_the_probability_is_the_soft_mask(kind):
    settings = losses.LossSettings(mask_loss=kind, positive_weight=5.0)
    mask = torch.full((1, 2, 1, 4, 4), 0.3)
    logit = torch.tensor(math.log(0.3 / 0.7), requires_grad=True)
    losses.mask_term(logit.expand_as(mask), mask, settings).backward()
    assert abs(logit.grad.item()) < 1e-3
    worse = losses.mask_term(logit.detach().expand_as(mask) + 1.0, mask, settings)
    assert worse > losses.mask_term(logit.detach().expand_as(mask), mask, settings)


def test_an_unknown_mask_loss_is_refused():
    zeros = torch.zeros(1, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="mask_loss must be bce_dice, bce or mse, got 'dice'"):
        losses.mask_term(zeros, zeros, losses.LossSettings(mask_loss="dice"))


def test_total_is_the_papers_sum():
    values = {"nonmask": 1.0, "mask": 10.0, "grad": 100.0, "mpd": 1000.0, "select": 0.0}
    terms = {k: torch.tensor(v) for k, v in values.items()}
    assert losses.total(terms, losses.LossSettings()) == 1121
    terms["select"] += 10000
    assert losses.total(terms, losses.LossSettings(gamma_mpd=0.5)) == 5621
