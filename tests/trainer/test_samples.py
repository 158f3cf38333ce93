"""What a training window holds: the same frames of source, target and mask, the plan's keyframes, what is hidden."""

from types import SimpleNamespace

import pytest
import torch

from genprop_core.conditioning import nearest
from genprop_core.video_io import write_video
from trainer import encoder as module
from trainer.dataset import Triple
from trainer.encoder import Encoder
from trainer.latent_cache import without_cache
from trainer.samples import WindowSettings, plan_sample
from trainer.step import StepSettings
from trainer.windows import Windows

FRAMES, SIZE, WINDOW = 8, 64, 4


@pytest.fixture
def make_encoder(monkeypatch):
    """make_encoder(corrupt): an Encoder whose latents are the pixels themselves, and whose CLIP is their mean."""
    monkeypatch.setattr(module.cond, "encode_frames", lambda vae, frames, scaled, chunk: frames)
    monkeypatch.setattr(module.cond, "clip_embedding", lambda model, frames: frames.mean((1, 2, 3)).view(-1, 1, 1))
    parts = SimpleNamespace(vae=torch.nn.Identity(), image_encoder=torch.nn.Identity())
    return lambda corrupt: Encoder(parts, "cpu", corrupt, resident=True)


@pytest.fixture
def entries(tmp_path):
    """One clip: frame t has grey 20 + 10 t in the source, 120 + 10 t in the target, masked from row 8 t to 8 t + 7."""
    levels = torch.arange(FRAMES, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, SIZE, SIZE, 3)
    rows = (torch.arange(SIZE) // 8).view(1, -1, 1, 1) == torch.arange(FRAMES).view(-1, 1, 1, 1)  # [T,H,1,1]
    pictures = {"source": 20 + 10 * levels, "target": 120 + 10 * levels, "mask": rows.expand_as(levels).byte() * 255}
    for part, frames in pictures.items():
        write_video(tmp_path / f"{part}.mkv", frames, 8, lossless=True)
    return without_cache([Triple("clip", *(tmp_path / f"{p}.mkv" for p in pictures))], WINDOW, (SIZE,), 8)


def frame_of(latents, least):
    """[T] the clip's frame that every picture [T,3,H,W] in [-1,1] is, by its brightest row."""
    grey = (latents.mean((1, 3)).amax(1) + 1) / 2 * 255  # [T]
    return ((grey - least) / 10).round().long().tolist()


def samples(entries, encoder, **settings):
    """[(plan, sample)] of the first 60 positions."""
    drawn = WindowSettings(7, WINDOW, **settings)
    windows = Windows(entries, drawn, StepSettings(), encoder)
    return [(plan_sample(position, [FRAMES], drawn), windows[position]) for position in range(60)]


def test_source_target_mask_and_keyframes_are_of_the_same_frames(entries, make_encoder):
    found = samples(entries, make_encoder("black"), keyframes_max=3, reverse=0.5, corrupt_probability=0.5)
    for plan, sample in found:
        played = list(range(plan.start, plan.start + WINDOW))[:: -1 if plan.backwards else 1]
        assert frame_of(sample["source"], 20) == frame_of(sample["target"], 120) == played
        assert sample["mask"].mean((1, 3)).argmax(1).tolist() == played
        shown = [played[i] for i in nearest(WINDOW, plan.keyframes)]  # each frame is shown the keyframe nearest to it
        assert frame_of(sample["image"], 120) == shown
        assert len(set(shown)) == len(plan.keyframes) and shown[0] == played[0]
        assert frame_of(sample["clip"].view(1, 1, 1, 1), 120) == played[:1]
    plans = [plan for plan, _ in found]
    assert {len(p.keyframes) for p in plans} == {1, 2, 3} and {p.backwards for p in plans} == {True, False}
    assert {p.start for p in plans} == set(range(FRAMES - WINDOW + 1)) and {p.corrupted for p in plans} == {True, False}


def test_one_keyframe_and_forwards_unless_asked_for(entries, make_encoder):
    for plan, sample in samples(entries, make_encoder("none")):
        assert plan.keyframes == (0,) and not plan.backwards and not plan.corrupted
        assert len(set(frame_of(sample["image"], 120))) == 1


def test_black_hides_the_source_inside_the_mask_and_nothing_else(entries, make_encoder):
    found = samples(entries, make_encoder("black"), corrupt_probability=0.5, reverse=0.5)
    hidden = [sample for plan, sample in found if plan.corrupted]
    assert 15 < len(hidden) < 45
    for sample in hidden:
        inside = (torch.nn.functional.interpolate(sample["mask"], SIZE) > 0.5).expand_as(sample["source"])
        assert (sample["source"][inside] == -1).all()
        assert (sample["source"][~inside] > -0.9).all() and (sample["target"] > -0.9).all()


def test_blur_leaves_nothing_to_recognise_inside_the_mask(make_encoder):
    g = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[:, :, 16:48, 16:48] = 1
    source = torch.rand(2, 3, SIZE, SIZE, generator=g)
    frames = {"source": source, "target": torch.zeros_like(source), "mask": mask}
    window = make_encoder("blur").encode(frames, "clip")
    inside = (mask > 0).expand(-1, 3, -1, -1)
    assert window["corrupt"][inside].std() < 0.15 * window["source"][inside].std()
    assert window["corrupt"][~inside].equal(window["source"][~inside])
    assert "corrupt" not in make_encoder("none").encode(frames, "clip")
