"""A red thing that stands still in the picture while the camera pans past waves; a model that only guesses there."""

import torch
from soft_waves import waves
from stand_in import StandIn

from genprop_core.frames import as_bytes, as_float

SIZE, FRAMES, PAN = 128, 14, 3
THING = (slice(40, 80), slice(44, 84))  # stands still in the picture, while the camera pans
AT_THE_BORDER = (slice(40, 80), slice(112, 128))  # what is behind it comes into the picture there
EDGE = 8
GUESS = torch.tensor([0.2, 0.9, 0.2]).view(3, 1, 1)


def scene(passer=False, thing=THING, height=SIZE, width=SIZE):
    """(source, target) [T,3,H,W] in [0,1]: a red thing before waves that go to the left; something dark comes near."""
    wide = as_float(torch.from_numpy(waves(height, width + PAN * FRAMES, grey=True)).movedim(-1, 0))
    target = torch.stack([wide[:, :, PAN * t : PAN * t + width] for t in range(FRAMES)])
    if passer:
        for t in range(FRAMES):
            target[t, :, 50:70, 120 - 2 * t - 12 : 120 - 2 * t] = 0.1
    source = target.clone()
    source[:, :, thing[0], thing[1]] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    return as_float(as_bytes(source)), as_float(as_bytes(target))


def edit(grow=EDGE, thing=THING):
    out = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    out[tuple(slice(part.start - grow, part.stop + grow) for part in thing)] = True
    return out


def inside(frame, thing=THING):
    return frame[..., thing[0], thing[1]]


class Guessing(StandIn):
    """Puts green where the thing is."""

    def __init__(self, removes):
        super().__init__()
        self.removes = removes

    def run(self, source, keyframe, **others):
        super().run(source, keyframe, **others)
        mask = edit(0).float().expand(len(source), 1, -1, -1)
        return torch.lerp(source, GUESS.expand_as(source), mask), torch.nn.functional.avg_pool2d(mask, 8)
