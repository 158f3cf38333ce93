"""Synthetic pairs: what each recipe changes and what it leaves alone; the same pairs whatever the workers."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genprop_core.errors import GenPropError
from genprop_core.video_io import read_video, write_image, write_video
from trainer import make_pairs as module
from trainer.dataset import check_triple, find_triples, list_clips, read_rows, write_rows
from trainer.instances import find_clips
from trainer.recipes import GROW, Placement, color_fill, copy_and_paste, mask_and_fill
from trainer.split import split


def scene(frames=5, height=60, width=80, level=100, seed=0):
    """Noise frames, and a square of 20 x 20 px that moves by 2 px a frame."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(level - 20, level + 20, (frames, height, width, 3)).astype(np.uint8)
    mask = np.zeros((frames, height, width), bool)
    for t in range(frames):
        mask[t, 20:40, 10 + 2 * t : 30 + 2 * t] = True
    return picture, mask


def test_copy_and_paste_leaves_the_target_and_everything_outside_the_mask():
    under, _ = scene(level=100)
    objects, masks = scene(level=220, seed=1)
    kept = under.copy()
    edit = copy_and_paste(under, objects, masks, Placement(1 / 3, (0.5, 0.5)))
    assert np.array_equal(edit.target, kept) and np.array_equal(under, kept)
    assert edit.source[edit.mask].mean() > 180
    far = ~np.stack([__import__("cv2").dilate(m.astype(np.uint8), np.ones((9, 9))) for m in edit.mask]).astype(bool)
    assert np.array_equal(edit.source[far], kept[far])
    columns = [np.flatnonzero(m.any(0)).mean() for m in edit.mask]  # height 1/3 of 60 px: scale 1, the motion stays
    assert np.diff(columns) == pytest.approx([2] * 4, abs=0.6) and np.mean(columns) == pytest.approx(40, abs=1.5)
    mirrored = copy_and_paste(under, objects, masks, Placement(1 / 3, (0.5, 0.5), mirrored=True))
    assert np.diff([np.flatnonzero(m.any(0)).mean() for m in mirrored.mask]) == pytest.approx([-2] * 4, abs=0.6)


def test_a_pasted_shadow_darkens_and_belongs_to_the_mask():
    under, _ = scene(level=150)
    objects, masks = scene(level=220, seed=1)
    plain = copy_and_paste(under, objects, masks, Placement(1 / 3, (0.4, 0.5)))
    shaded = copy_and_paste(under, objects, masks, Placement(1 / 3, (0.4, 0.5), shadow=0.5, light=(0.8, 0.3)))
    only = shaded.mask & ~plain.mask
    assert only.sum() > 500 and shaded.source[only].mean() < 0.8 * under[only].mean()


@pytest.mark.parametrize("how", ["mean", "telea"])
def test_mask_and_fill(how):
    frames, masks = scene()
    frames[masks] = 255
    edit = mask_and_fill(frames, masks, how)
    assert np.array_equal(edit.target, frames)
    for t in range(5):
        expected = np.zeros((60, 80), bool)
        expected[20 - GROW : 40 + GROW, 10 + 2 * t - GROW : 30 + 2 * t + GROW] = True
        assert np.array_equal(edit.mask[t], expected)
        assert np.array_equal(edit.source[t][~expected], frames[t][~expected])
        assert edit.source[t][expected].max() < 200  # nothing of the object is left
    if how == "mean":
        assert len(np.unique(edit.source[0][edit.mask[0]], axis=0)) == 1


def test_color_fill():
    frames, masks = scene()
    edit = color_fill(frames, masks)
    assert np.array_equal(edit.source, frames) and np.array_equal(edit.mask, masks)
    assert (edit.target[masks] == (255, 0, 0)).all() and np.array_equal(edit.target[~masks], frames[~masks])


def test_shares_are_the_papers():
    names = [module.recipe_of(i, 3) for i in range(4000)]
    for recipe, share in (("paste", 0.5), ("fill", 0.375), ("color", 0.125)):
        assert names.count(recipe) / 4000 == pytest.approx(share, abs=0.03)


@pytest.fixture
def videos(tmp_path):
    for index in range(2):
        picture, mask = scene(8, height=64, seed=index, level=90 + 60 * index)
        write_video(tmp_path / "videos" / f"v{index}.mp4", picture, 24)
        shown = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, -1)
        write_video(tmp_path / "videos" / f"v{index}_mask.mp4", shown, 24)
    write_video(tmp_path / "videos" / "background.mp4", scene(9, height=70, seed=5)[0], 24)
    return tmp_path / "videos"


SETTINGS = module.PairSettings(seed=1, num_frames=5, short_side=None, shadow=0.5)


def test_the_same_pairs_for_any_workers_resumed_and_ready_for_training(videos, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    module.make_pairs(videos, one, 6, SETTINGS)
    triples = find_triples(one)
    assert len(triples) == 6 and {t.task for t in triples} <= {"remove", "edit", "track"}
    assert all(check_triple(t, 5).frames == 5 for t in triples)
    # another machine's share first, then a worker process for the rest, two of which were lost in between
    module.make_pairs(videos, two, 6, SETTINGS, share=(1, 2))
    (two / "masks" / f"{module.pair_name(3, 1)}.mp4").unlink()
    targets = two / module.FOLDERS["target"]  # and of one a part of other clips, from a run that was stopped
    (targets / f"{module.pair_name(0, 1)}.mp4").write_bytes((targets / f"{module.pair_name(1, 1)}.mp4").read_bytes())
    done = []
    module.make_pairs(videos, two, 6, SETTINGS, workers=1, progress=lambda *p: done.append(p))
    assert done == [(i, 4) for i in range(1, 5)]
    for a, b in zip(triples, find_triples(two), strict=True):
        assert a.name == b.name and a.task == b.task
        for x, y in zip(a.paths, b.paths):
            assert torch.equal(read_video(x).frames, read_video(y).frames)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_and_one_process_of_many_list_what_is_there(videos, tmp_path, monkeypatch, workers):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        module.make_pairs(videos, out, 8, SETTINGS, workers, share=(1, 2), progress=stop)
    triples = find_triples(out)
    assert len(triples) == 4 and [t.name for t in triples] == [module.pair_name(i, 1) for i in (1, 3, 5, 7)]
    assert [t.task for t in triples] == [module.TASK[module.recipe_of(i, 1)] for i in (1, 3, 5, 7)]
    assert {t.task for t in triples} != {"remove"}  # what clips without a row are taken for
    if workers:
        return
    # a pair that another process finishes while this one writes its list
    names = module.finished(out)
    seen = iter([names[:2], names, names])
    monkeypatch.setattr(module, "finished", lambda folder: next(seen))
    module.write_tasks(out)
    assert len((out / "tasks.csv").read_text().split()) == 1 + 4


def test_clips_of_another_origin_keep_their_rows_and_pairs_their_seed(videos, tmp_path):
    out = tmp_path / "out"
    module.make_pairs(videos, out, 1, SETTINGS)
    for folder in module.FOLDERS.values():
        (out / folder / "own.mp4").write_bytes((out / folder / f"{module.pair_name(0, 1)}.mp4").read_bytes())
    mine = [{"name": "own.mp4", "task": "track", "by": "me"}, {"name": "pair_000007_fill", "task": "edit", "by": ""}]
    write_rows(out / "tasks.csv", mine)  # the latter is not there any more
    module.make_pairs(videos, out, 2, SETTINGS)
    made = {t.name: t.task for t in find_triples(out)}
    assert made["own"] == "track" and len(made) == 3 and read_rows(out / "tasks.csv")[0] == mine[0]
    other = replace(SETTINGS, seed=2)
    with pytest.raises(GenPropError, match=r"pairs of --seed 2 or none, but those in .* are of 1\. Give --seed 1, or"):
        module.make_pairs(videos, out, 3, other)
    (out / "tasks.csv").write_text("clip,task\nown,track\n")
    with pytest.raises(GenPropError, match="Expected the columns name and task"):
        module.make_pairs(videos, out, 3, SETTINGS)
    assert len(list_clips(out / "masks")) == 3


def test_clips_that_were_moved_away_are_not_made_again(videos, tmp_path):
    out, away = tmp_path / "out", tmp_path / "val"
    module.make_pairs(videos, out, 3, SETTINGS)
    moved = split(out, away, 1, 7)
    module.make_pairs(videos, out, 4, SETTINGS)
    names = {t.name for t in find_triples(out)}
    assert len(names) == 3 and not names & set(moved) and module.pair_name(3, 1) in names


def test_where_objects_are_rare_all_clips_are_looked_through(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 0)
    clips = find_clips(videos)
    settings = module.PairSettings(1, 3, None, 0.0)
    seen = set(module._places([c for c in clips if c.mask is not None], random.Random(3), 3))
    assert seen == {(c, start) for c in clips if c.mask is not None for start in range(c.frames - 2)}
    rare = SimpleNamespace(frames=9, mask=True, read_instances=lambda a, b, side: np.full((3, 9, 9), a == 8))
    with pytest.raises(GenPropError, match="Found no object .* in any clip"):
        module.draw_object([rare], random.Random(3), settings)
    clip, start, mask = module.draw_object(clips, random.Random(3), settings)
    assert mask.any((1, 2)).all() and clip.mask is not None


def test_davis_layout_with_several_objects(tmp_path):
    picture, mask = scene(3, height=64)
    for t in range(3):
        write_image(tmp_path / "JPEGImages" / "480p" / "dog" / f"{t:05d}.jpg", picture[t])
        label = np.zeros((64, 80, 3), np.uint8)
        label[mask[t]] = (128, 0, 0)
        label[50:, 60:] = (0, 128, 0)
        write_image(tmp_path / "Annotations" / "480p" / "dog" / f"{t:05d}.png", label)
    (clip,) = find_clips(tmp_path)
    labels = clip.read_instances(0, 3, None)
    assert len(np.unique(labels)) == 3 and np.array_equal(labels == 128 * 65536, mask)
    assert clip.read(0, 2, 33).shape == (2, 32, 40, 3) and clip.read_instances(0, 2, 33).shape == (2, 32, 40)


def rescaled(path, height, width):
    import cv2

    video = read_video(path)
    frames = [cv2.resize(f.numpy(), (width, height), interpolation=cv2.INTER_NEAREST) for f in video.frames]
    write_video(path, np.stack(frames), video.fps, lossless=True)


def test_hidden_files_are_no_clips(videos):
    (videos / "._v0.mp4").write_text("what macOS leaves on other disks")
    assert [clip.name for clip in find_clips(videos)] == ["background", "v0", "v1"]


def test_masks_of_another_size_are_brought_to_their_videos(videos):
    mask = videos / "v0_mask.mp4"
    before = find_clips(videos)[1].read_instances(0, 8, None)
    rescaled(mask, 32, 40)
    clip = find_clips(videos)[1]
    labels = clip.read_instances(0, 8, None)
    assert clip.mask == mask and labels.shape == clip.read(0, 8, None).shape[:3] == before.shape
    assert (labels != before).mean() < 0.02
    assert clip.read_instances(0, 2, 32).shape == clip.read(0, 2, 32).shape[:3] == (2, 32, 40)
    rescaled(mask, 48, 58)  # 60 by the aspect
    with pytest.raises(GenPropError, match=r"v0_mask\.mp4 in the aspect of .*v0\.mp4, 80x64, got 58x48\. Export the m"):
        find_clips(videos)


def test_bad_input(videos, tmp_path):
    with pytest.raises(GenPropError, match=r"at least 20 frames \(--num_frames\).*longest has 8\. Lower"):
        module.make_pairs(videos, tmp_path / "x", 1, module.PairSettings(1, 20, None, 0.5))
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenPropError, match=r"Expected JPEGImages/ and Annotations/, or NAME\.mp4"):
        find_clips(tmp_path / "empty")
