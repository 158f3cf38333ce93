"""Scores of one clip, and their summary over clips: mean, spread, worst clip, bootstrap interval, what is missing."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from genprop_core import conditioning as cond
from genprop_core import metrics
from genprop_core.evaluation import FLOORS, summary

from .evaluation_clips import EvalClip

RESAMPLES, COVERAGE = 2000, 0.95


@dataclass(frozen=True)
class Metric:
    """What a column means. digits: decimals to show; meaning: one line for the reader."""

    label: str
    higher_is_better: bool
    digits: int
    meaning: str


METRICS = {
    "psnr": Metric("PSNR", True, 2, "dB, whole picture against the truth"),
    "ssim": Metric("SSIM", True, 3, "structural similarity to the truth, 0 to 1"),
    "psnr_outside": Metric("PSNR outside", True, 2, "dB outside the true mask (against the source without a truth)"),
    "psnr_inside": Metric("PSNR inside", True, 2, "dB inside the true mask"),
    "mask_iou": Metric("mask IoU", True, 3, "predicted against true mask, at latent size"),
    "mask_f": Metric("mask F", True, 3, "F1 of the predicted mask, at latent size"),
    "mask_iou_pixels": Metric("mask IoU px", True, 3, "predicted mask enlarged, against the true mask in pixels"),
    "mask_ceiling": Metric("its ceiling", True, 3, "the best that any mask of latent size can reach, enlarged"),
    "warp_error": Metric("warp error", False, 5, "flicker along the motion (DIS flow), mean squared"),
    "seam_jump": Metric("seam jump", False, 2, "frame change where windows meet over that elsewhere; 1 is none"),
    "colour_drift": Metric("colour drift", False, 2, "shift of colour outside the mask, in 1/255"),
    "removed": Metric("removed", True, 3, "share of clips that are nearer to the truth than to the source, inside the "
                      "mask, in every frame; a model that invents something else passes too"),  # fmt: skip
    "clip_i": Metric("CLIP-I", True, 4, "cosine of the CLIP image embeddings of the keyframe and of every frame"),
    "clip_t": Metric("CLIP-T", True, 4, "cosine of CLIP embeddings of frames and the clip's prompt"),
    "lpips": Metric("LPIPS", False, 4, "learned perceptual distance to the truth"),
}
NEEDS = {
    "psnr": "truth", "ssim": "truth", "psnr_outside": "mask", "psnr_inside": "truth and mask",
    "mask_iou": "mask", "mask_f": "mask", "mask_iou_pixels": "mask", "mask_ceiling": "mask",
    "colour_drift": "mask", "removed": "truth and mask", "lpips": "truth", "clip_t": "prompt",
}  # fmt: skip


def best_enlarged_iou(mask: torch.Tensor, factor: int) -> float | None:
    """The highest IoU with mask [T,1,H,W] that whole patches of factor x factor pixels can reach; None for no mask.

    The best choice of n patches is the n that the mask covers most, so one pass over them in that order finds it.
    """
    covered = F.avg_pool2d(mask.double(), factor).flatten().sort(descending=True).values
    both, count = covered.cumsum(0), torch.arange(1, len(covered) + 1)
    return float((both / (count + covered.sum() - both)).max()) if covered.sum() else None


def score_clip(frames: torch.Tensor, clip: EvalClip, probability=None, seams=(), learned=None) -> dict:
    """Every metric that this clip allows, None for the others. Without a truth, what is outside the mask is held
    against the source, and the motion of the warp error is the source's.

    frames: [T,3,H,W]; probability: the predicted mask's [T,1,H/8,W/8] or None; learned: LearnedMetrics or None.
    """
    target, source, mask = clip.target, clip.source, clip.mask
    reference = source if target is None else target
    out = dict.fromkeys(METRICS)
    true_latent = None if mask is None else cond.mask_to_latents(mask) > 0.5
    predicted = None if probability is None else probability > 0.5
    if target is not None:
        out |= metrics.score(frames, target, source, mask, predicted, true_latent)
    elif mask is not None:
        out["psnr_outside"] = metrics.psnr(frames, source, 1 - mask)
    if mask is not None:
        out["colour_drift"] = metrics.colour_drift(frames, reference, mask)
    if mask is not None and predicted is not None:
        out["mask_iou"], out["mask_f"] = metrics.iou(predicted, true_latent), metrics.f_score(predicted, true_latent)
        out["mask_iou_pixels"] = metrics.iou(F.interpolate(predicted.float(), mask.shape[-2:]), mask)
        out["mask_ceiling"] = best_enlarged_iou(mask, mask.shape[-1] // predicted.shape[-1])
    out["warp_error"] = metrics.warp_error(frames, reference)
    out["seam_jump"] = metrics.seam_jump(frames, seams)
    return out if learned is None else out | learned.score(frames, clip)


def curves(frames: torch.Tensor, clip: EvalClip) -> dict[str, list]:
    """PSNR of every frame, as far as the clip allows it: {"psnr_outside", "psnr_inside"}, or {"psnr"}; lists of T."""
    target, mask = clip.target, clip.mask
    if mask is None:
        return {} if target is None else {"psnr": metrics.psnr_per_frame(frames, target)}
    out = {"psnr_outside": metrics.psnr_per_frame(frames, clip.source if target is None else target, 1 - mask)}
    return out if target is None else out | {"psnr_inside": metrics.psnr_per_frame(frames, target, mask)}


def bootstrap(values: list[float]) -> list[float]:
    """The 95% percentile interval of the mean over clips drawn again with replacement; the same for the same values."""
    data = torch.tensor(values, dtype=torch.float64)
    drawn = torch.randint(len(data), (RESAMPLES, len(data)), generator=torch.Generator().manual_seed(0))
    means = data[drawn].mean(dim=1)
    tail = (1 - COVERAGE) / 2
    return torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()


def describe(rows: list[dict], names: list[str]) -> dict:
    """`mean_over_clips` with median, worst value, its clip and the interval beside standard deviation, min and max."""
    out = metrics.mean_over_clips(rows)
    for key, spread in out["spread"].items():
        pairs = [(row[key], name) for row, name in zip(rows, names) if row[key] is not None]
        if not pairs:
            spread |= {"median": None, "worst": None, "worst_clip": None, "interval": None, "clips": 0}
            continue
        values = [v for v, _ in pairs]
        worst, clip = (min if METRICS[key].higher_is_better else max)(pairs, key=lambda pair: pair[0])
        median = torch.tensor(values, dtype=torch.float64).quantile(0.5).item()
        spread |= {
            "median": median, "worst": worst, "worst_clip": clip, "interval": bootstrap(values), "clips": len(values),
        }  # fmt: skip
    return out


def missing(rows: list[dict], without: dict[str, str]) -> dict[str, str]:
    """{column: why it has no value, or not for all clips}. without: reasons known beforehand (absent weights)."""
    out = {}
    for key in METRICS:
        lacking = [row["clip"] for row in rows if row["result"].get(key) is None]
        if not lacking:
            continue
        reason = without.get(key)
        if reason is None and key == "seam_jump":
            reason = "clips of one window have no seams"
        elif reason is None:
            reason = f"no {NEEDS.get(key, 'value')}"
        few = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        out[key] = reason if len(lacking) == len(rows) else f"{reason} for {len(lacking)} of {len(rows)} clips ({few})"
    return out


def combine(rows: list[dict], *, controls, without=None, frames, size, checkpoint, seed) -> dict:
    """The report of all clips' rows: the JSON of `evaluation.summary` with more keys. "seconds" are a mean over clips.

    "floors" are the four that need no masks, "baselines" the rest; "missing" names the columns without (all) values.
    """
    names = [row["clip"] for row in rows]
    seconds = {key: sum(r["seconds"][key] for r in rows) / len(rows) for key in rows[0]["seconds"]}
    report = summary([], [], controls=controls, frames=frames, size=size, seconds=seconds, checkpoint=checkpoint,
                     seed=seed)  # fmt: skip
    report |= {"clips": len(rows), "result": describe([r["result"] for r in rows], names), "baselines": {}}
    for name in dict.fromkeys(n for row in rows for n in row["floors"]):
        there = [row for row in rows if name in row["floors"]]
        part = report["floors" if name in FLOORS else "baselines"]
        part[name] = describe([row["floors"][name] for row in there], [row["clip"] for row in there])
    report["missing"] = missing(rows, without or {})
    report["notes"] = {row["clip"]: row["notes"] for row in rows if row.get("notes")}
    return report


def variants(report: dict) -> dict[str, dict]:
    """{label: described scores} of the result, the floors and the baselines, in the order of tables."""
    return {"result": report["result"], **report["floors"], **report.get("baselines", {})}


def shown(report: dict) -> list[str]:
    """The columns that have any value."""
    return [k for k in METRICS if any(v.get(k) is not None for v in variants(report).values())]


def table(report: dict) -> str:
    """The report as plain text: result first, then floors and baselines; the 95% interval under the result."""
    keys, lines = shown(report), []
    lines.append(f"{'':16}" + "".join(f"{METRICS[k].label:>18}" for k in keys))
    for name, values in variants(report).items():
        cells = (f"{'-':>18}" if values.get(k) is None else f"{values[k]:18.{METRICS[k].digits}f}" for k in keys)
        lines.append(f"{name:16}" + "".join(cells))
        if name == "result":
            spread = values["spread"]
            pairs = [spread[k]["interval"] for k in keys]
            cells = [
                "-" if p is None else f"{p[0]:.{METRICS[k].digits}f}..{p[1]:.{METRICS[k].digits}f}"
                for k, p in zip(keys, pairs)
            ]
            lines.append(f"{'  95% interval':16}" + "".join(f"{c:>18}" for c in cells))
    lines += [f"control {k}: {v:.2f}" for k, v in report["controls"].items() if k != "clips" and v is not None]
    lines += [f"not measured, {METRICS[k].label}: {why}" for k, why in report["missing"].items()]
    return "\n".join(lines)
