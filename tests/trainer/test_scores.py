"""What is computed of a clip and over clips: statistics, ceilings, the baseline by inpainting."""

import math

import pytest
import torch

from genprop_core import metrics
from trainer import baselines, score_table
from trainer.evaluation_clips import HeldOut
from trainer.score_table import METRICS, bootstrap, describe, score_clip


def test_the_seconds_of_a_report_are_those_of_a_clip():
    scores = dict.fromkeys(METRICS)
    rows = [{"clip": n, "result": scores, "floors": {}, "seconds": {"encode": s, "decode": 1.0}}
            for n, s in zip("ab", (1, 3))]  # fmt: skip
    report = score_table.combine(rows, controls={}, frames=8, size=[64, 64], checkpoint="c", seed=0)
    assert report["clips"] == 2 and report["seconds"] == {"encode": 2.0, "decode": 1.0}


def test_statistics_over_clips():
    rows = [dict.fromkeys(METRICS) | {"psnr": p, "warp_error": w} for p, w in ((20.0, 0.1), (30.0, 0.4), (28.0, 0.2))]
    found = describe(rows, ["a", "b", "c"])
    assert found["psnr"] == 26 and found["spread"]["psnr"]["median"] == 28
    assert found["spread"]["psnr"]["worst_clip"] == "a" and found["spread"]["warp_error"]["worst_clip"] == "b"
    assert found["spread"]["ssim"]["interval"] is None and found["ssim"] is None
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).tolist()
    low, high = bootstrap(values)
    assert (low, high) == tuple(bootstrap(values)) and bootstrap([3.0]) == [3.0, 3.0]
    mean = sum(values) / 400
    expected = 1.96 * torch.tensor(values).std().item() / math.sqrt(400)
    assert mean - low == pytest.approx(expected, rel=0.15) and high - mean == pytest.approx(expected, rel=0.15)


def test_scores_of_the_truth_are_perfect_and_seams_are_seen():
    clip = HeldOut(1)[0]
    mask = torch.nn.functional.avg_pool2d(clip.mask, 8)
    found = score_clip(clip.target, clip, mask, seams=[4])
    assert found["psnr"] == 100 and found["removed"] == 1 and found["colour_drift"] == 0
    assert found["mask_iou"] > 0.9 and found["mask_iou_pixels"] <= found["mask_ceiling"] < 1
    half = score_clip(clip.target, clip, 0.55 * mask)  # only patches that are covered nearly whole
    assert 0.2 < half["mask_iou"] < half["mask_f"] < 1
    assert 0.5 < found["seam_jump"] < 1.5
    jumping = clip.target.clone()
    jumping[4:] = (jumping[4:] + 0.2).clamp(0, 1)
    assert score_clip(jumping, clip, seams=[4])["seam_jump"] > 2
    assert set(found) == set(METRICS)
    assert set(score_table.curves(clip.target, clip)) == {"psnr_outside", "psnr_inside"}


def test_the_ceiling_is_the_best_choice_of_patches():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :8], mask[..., :8, 8:12], mask[..., 8:9, :8] = 1, 1, 1  # a whole patch, a half and an eighth
    assert score_table.best_enlarged_iou(mask, 8) == pytest.approx(1.5 / (2 + 1.625 - 1.5))
    assert score_table.best_enlarged_iou(torch.zeros(1, 1, 16, 16), 8) is None
    clip = HeldOut(1)[0]
    true = torch.nn.functional.interpolate((torch.nn.functional.avg_pool2d(clip.mask, 8) > 0.4).float(), (128, 128))
    assert metrics.iou(true, clip.mask) <= score_table.best_enlarged_iou(clip.mask, 8) < 1


def test_telea_fills_the_region_and_keeps_the_rest():
    clip = HeldOut(1)[0]
    filled = baselines.telea(clip.source, clip.mask)
    grown = torch.nn.functional.max_pool2d(clip.mask, 2 * baselines.GROW + 1, 1, baselines.GROW)
    assert torch.equal(filled * (1 - grown), clip.source * (1 - grown))
    inside = score_clip(filled, clip)["psnr_inside"]
    assert inside > score_clip(clip.source, clip)["psnr_inside"] + 5
