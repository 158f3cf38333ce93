"""How far each frame can be trusted: by the mask decoder, by what changed where nothing should, and by how often it was
handed on.

A window's frames can be trusted as far as the frame it starts from, times their own confidence (`window_chain`). Alone,
neither the decoder's sureness nor the change says which frames of a long clip went wrong (docs/long_clips.md).
"""

import torch
import torch.nn.functional as F

from .compositing import alpha

TRUSTED = 0.5  # a frame below this confidence should be edited again
GAP = 3  # doubtful stretches this near each other are one
TOLERANCE = 24.0  # excess change outside the mask, in 1/255, at which the confidence falls to 1/e
MARGIN = 8  # pixels around the mask that count as neither inside nor outside: one latent cell


def sureness(probability: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """[T,1,h,w] -> [T] in [0,1]: the mean probability inside the region found; where none is found, how sure that is
    (1 - the highest probability)."""
    found = probability >= threshold
    inside = (probability * found).flatten(1).sum(1) / found.flatten(1).sum(1).clamp(min=1)
    return torch.where(found.flatten(1).any(1), inside, 1 - probability.flatten(1).amax(1))


def to_size(probability: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Mask [T,1,h,w] -> [T,1,height,width], bilinear."""
    return F.interpolate(probability.float(), (height, width), mode="bilinear", align_corners=False)


def change_outside(made: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """[T]: mean absolute difference outside the mask [T,1,H,W] grown by MARGIN pixels, in 1/255; 0 where all is mask.

    made, source: [T,3,H,W] in [0,1]. Without a mask all of the frame counts.
    """
    difference = (made - source).abs().mean(1, keepdim=True) * 255
    outside = torch.ones_like(difference) if mask is None else (alpha(mask, MARGIN, 0) == 0).float()
    return (difference * outside).flatten(1).sum(1) / outside.flatten(1).sum(1).clamp(min=1)


def confidence(sure: torch.Tensor, change: torch.Tensor, reference: float) -> torch.Tensor:
    """[T] in [0,1]: sureness of the mask, lowered by the change outside it beyond what the base itself loses.

    reference: the change outside at the keyframe, where nothing can have drifted yet.
    """
    return sure * torch.exp(-(change - reference).clamp(min=0) / TOLERANCE)


def doubtful_ranges(values, threshold: float = TRUSTED) -> list[tuple[int, int]]:
    """[(first, last)]: stretches of frames below the threshold, both ends in them; near ones are joined."""
    ranges: list[tuple[int, int]] = []
    for index, value in enumerate(values):
        if value >= threshold:
            continue
        if ranges and index - ranges[-1][1] <= GAP:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


def advice(ranges) -> list[str]:
    """["frames 41-58: re-edit here", ...] for `doubtful_ranges`; frames count from 0, as keyframe indices do."""
    return [f"frame{'s' * (a != b)} {a if a == b else f'{a}-{b}'}: re-edit here" for a, b in ranges]
