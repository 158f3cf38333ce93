import torch

from trainer.mini.clips import CONTRAST, FIRST_HELD_OUT_SEED, SAMPLE_SEED, describe, make_clip


def test_a_clip_depends_on_its_seed_alone():
    a, b = make_clip(3), make_clip(3)
    assert torch.equal(a.source, b.source) and torch.equal(a.target, b.target) and torch.equal(a.mask, b.mask)
    assert not torch.equal(a.source, make_clip(4).source)


def test_the_edit_is_inside_the_mask_and_visible_in_every_frame():
    for seed in range(4):
        clip = make_clip(seed)
        assert clip.source.shape == clip.target.shape == (8, 3, 128, 128) and clip.mask.shape == (8, 1, 128, 128)
        assert clip.source.min() >= 0 and clip.source.max() <= 1 and set(clip.mask.unique().tolist()) == {0.0, 1.0}
        change = (clip.source - clip.target).abs().mean(1, keepdim=True)
        assert (change * clip.mask).sum() / clip.mask.sum() >= CONTRAST
        assert (change * (1 - clip.mask)).mean() < 0.01
        assert clip.mask.mean(dim=(1, 2, 3)).min() > 0.02


def test_long_clips_keep_moving():
    clip = make_clip(5, frames=64)
    assert clip.source.shape[0] == 64
    assert (clip.source[1:] - clip.source[:-1]).abs().mean(dim=(1, 2, 3)).min() > 1 / 255


def test_a_larger_picture_holds_the_same_shapes_smaller():
    for seed in range(6):
        small, large = make_clip(seed), make_clip(seed, size=256)
        assert large.source.shape == (8, 3, 256, 256)
        ratio = large.mask.mean() / small.mask.mean()
        assert 0.1 < ratio < 0.6, (seed, ratio)


def test_difficulty_is_reported():
    facts = describe([make_clip(s) for s in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 4)])
    assert facts["contrast_min"] >= 40 and facts["drift_px_per_frame"] == [1.0, 4.0]
    assert facts["shape_radius_px"] == [12.0, 22.0]


def test_the_sample_is_held_out():
    assert SAMPLE_SEED >= FIRST_HELD_OUT_SEED
    assert not FIRST_HELD_OUT_SEED <= SAMPLE_SEED < FIRST_HELD_OUT_SEED + 1000  # nor is it among the evaluated ones
