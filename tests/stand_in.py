"""A stand-in for the model of a window, whose answers are known, and clips that it can be tried on."""

from types import SimpleNamespace

import torch

from genprop_core.base import Defaults
from genprop_core.long_clip import propagate_clip
from genprop_core.pipeline import GenProp

SIZE = 64


class StandIn:
    """Where the source is red it shows the keyframe's mean colour there, elsewhere the source `drift` brighter a frame.

    sure: probability of the mask per position in the window. calls: what every run was given.
    """

    default_frames, size_multiple, removes = 8, 32, False

    def __init__(self, drift=0.0, sure=(0.9,) * 64, mask=True):
        self.drift, self.sure, self.mask, self.calls = drift, sure, mask, []

    def run(self, source, keyframe, *, noise, region=None, guided=True, progress=None):
        self.calls.append({"source": source, "keyframe": keyframe, "noise": noise, "region": region, "guided": guided})
        for step in (1, 2):
            if progress is not None:
                progress(step, 2)
        red = red_mask(source)
        # the edit is carried over as the colour that the keyframe has where the object was
        fill = (keyframe.expand(len(source), -1, -1, -1) * red[0]).sum((2, 3)) / red[0].sum().clamp(min=1)  # [T,3]
        if not red[0].any():  # the first frame shows no edit, so the model cannot know of one
            fill = torch.tensor([[1.0, 0.0, 0.0]]).expand(len(source), -1)
        lift = self.drift * torch.arange(len(source)).view(-1, 1, 1, 1)
        made = ((source + lift) * (1 - red) + fill.view(-1, 3, 1, 1) * red).clamp(0, 1)
        small = torch.nn.functional.avg_pool2d(red, 8)
        return made, small * torch.tensor(self.sure[: len(source)]).view(-1, 1, 1, 1) if self.mask else None


class StandInPipeline:
    """GenProp's side that the command uses, with a stand-in for its model. seeds: of every clip so far."""

    file, device = SimpleNamespace(digest="0123456789abcdef"), torch.device("cpu")
    base = SimpleNamespace(defaults=Defaults())
    resolved = GenProp.resolved

    def __init__(self, **of_the_model):
        self.of_the_model, self.seeds = of_the_model, []

    def working_size(self, height, width, settings):
        return SIZE, SIZE

    def propagate_clip(self, frames, keyframes, settings, mask=None, *progress):
        self.seeds.append(settings.seed)
        return propagate_clip(StandIn(**self.of_the_model), frames, keyframes, settings.clip, mask, *progress)


def red_mask(frames):
    return ((frames[:, :1] > 0.9) & (frames[:, 1:2] < 0.1)).float()


def clip(count=20, height=SIZE, width=SIZE, box=16, moves=1):
    """uint8 [T,3,H,W]: a red box, aligned with the latents' grid when it stands still, on a slowly changing texture."""
    g = torch.Generator().manual_seed(count)
    base = torch.rand(3, height, width, generator=g) * 0.5 + 0.2
    frames = torch.stack([base + 0.002 * t for t in range(count)])
    for t in range(count):
        left = 8 + moves * 8 * (t // 4 % 3)
        frames[t, :, 16 : 16 + box, left : left + box] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    return (frames * 255).round().byte()


def edited(frames, index=0, colour=(0.0, 0.0, 1.0)):
    """The frame with the box painted in another colour."""
    frame = frames[index].float() / 255
    red = red_mask(frame[None])[0]
    return frame * (1 - red) + torch.tensor(colour).view(3, 1, 1) * red
