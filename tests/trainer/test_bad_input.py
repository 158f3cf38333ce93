"""What users get wrong is said in one line that names the file and the remedy, before anything long begins."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from genprop_core.errors import GenPropError
from genprop_core.video_io import read_video, write_video
from trainer import arguments
from trainer.dataset import FOLDERS, check_triple, find_triples, working_size
from trainer.held_out import check_held_out

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(data, tmp_path):
    """A copy of the validation clips, to be broken."""
    return shutil.copytree(data / "val", tmp_path / "data")


def broken(folder, match, num_frames=4):
    with pytest.raises(GenPropError, match=match) as error:
        for triple in find_triples(folder):
            check_triple(triple, num_frames)
    assert "\n" not in str(error.value)


def rewrite(path, change):
    video = read_video(path)
    write_video(path, change(video.frames), video.fps, lossless=True)


def test_unequal_file_sets_are_all_listed(folder):
    (folder / "masks" / "clip10.mp4").unlink()
    (folder / "edited_videos" / "clip11.mp4").rename(folder / "edited_videos" / "other.mp4")
    broken(folder, r"original_videos lacks other; edited_videos lacks clip11; masks lacks clip10, other\. Add what is")


def test_missing_folder_and_twins(folder):
    shutil.copy(folder / "masks" / "clip10.mp4", folder / "masks" / "clip10.mov")
    broken(folder, r"one clip named clip10 in .*masks, got clip10.mov and clip10.mp4\. Remove or rename")
    shutil.rmtree(folder / "masks")
    broken(
        folder,
        r"Expected a folder .*masks, but there is none\. A data folder holds original_videos, edited_videos, masks",
    )


def test_unequal_frames_and_sizes(folder):
    path = folder / "edited_videos" / "clip10.mp4"
    rewrite(path, lambda frames: frames[:5])
    broken(folder, r"Expected 6 frames in .*edited_videos.clip10\.mp4 like .*original_videos.*, got 5\. Cut them")
    rewrite(path, lambda frames: torch.cat([frames, frames[:1]])[:, :48])
    broken(folder, r"Expected .*edited_videos.clip10\.mp4 at 64x64 like .*, got 64x48\. Export them at one size")


def test_truncated_short_empty_and_grey(folder):
    path = folder / "original_videos" / "clip10.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    broken(folder, r"original_videos.clip10\.mp4 .*truncated")
    path.write_bytes(whole)
    broken(
        folder, r"at least 9 frames \(--num_frames\), but .*original_videos.clip10\.mp4 has 6\. Lower --num_frames", 9
    )
    mask = folder / "masks" / "clip11.mp4"
    rewrite(mask, lambda frames: frames // 255)
    broken(folder, r"masks.clip11\.mp4 is empty throughout \(no pixel above 127\)\. Mark the edited region with 255")
    rewrite(mask, lambda frames: torch.full_like(frames, 130))
    broken(folder, r"masks.clip11\.mp4 is grey|100% of .*clip11\.mp4 is grey\. Export it as black and white")


def test_a_lossy_mask_is_within_tolerance(folder):
    """H.264 at the strongest compression moves values and blurs edges; the mask read back is still the same region."""
    from trainer.dataset import read_window

    triple = find_triples(folder)[0]
    exact = read_window(triple, (64, 64))["mask"]
    video = read_video(triple.mask)
    write_video(triple.mask, video.frames, video.fps, crf=30)
    check_triple(triple, 4)
    lossy = read_window(triple, (64, 64))["mask"]
    assert set(lossy.unique().tolist()) == {0.0, 1.0} and (lossy != exact).float().mean() < 0.02


def test_tasks(folder):
    (folder / "tasks.csv").write_text("name,task\nclip11.mp4,track\n")
    assert [t.task for t in find_triples(folder)] == ["remove", "track"]
    (folder / "tasks.csv").write_text("name,task\nclip12,track\n")
    broken(folder, r"tasks\.csv names clips that are not in the folders: clip12\. Remove these rows")
    (folder / "tasks.csv").write_text("name,task\nclip11,fly\n")
    broken(folder, r"Expected the tasks remove, edit, track in .*tasks\.csv, got clip11: fly")
    (folder / "tasks.csv").write_text("clip11,track\n")
    broken(folder, r"Expected the columns name and task in .*tasks\.csv")


def test_resolution(capsys):
    from trainer.train import main

    for text in ("100", "64x20", "big"):
        assert main(["--resolution", text]) == 2
    said = capsys.readouterr().err
    assert "divisible by 8 (by 64 for SVD), got 100; try 128" in said and "WIDTHxHEIGHT in pixels, got big" in said
    assert [line.split(": ")[:2] for line in said.splitlines()] == [["error", "argument --resolution"]] * 3
    with pytest.raises(GenPropError, match=r"multiples of 64 for this base, got 1000x576\. Try 1024x576"):
        working_size(1920, 1080, (1000, 576), 64)
    assert working_size(1920, 1080, (576,), 64) == (576, 1024)
    assert working_size(1080, 1920, (576,), 64) == (1024, 576)
    assert working_size(1920, 1080, (1024, 576), 64) == (576, 1024)


def test_clips_that_are_trained_on_are_no_validation(train, data, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(data / "train", both)
    with pytest.raises(GenPropError, match=r"same in both folders: clip.*--val_interval 0"):
        train(max_steps=1, val_interval=1, val_data_dir=both)
    assert not (tmp_path / "out").exists()
    for path in (both / "original_videos").iterdir():
        if path.is_dir():
            (path / "000.png").rename(path / "999.png")
        else:
            rewrite(path, lambda frames: frames.flip(0))
    check_held_out(find_triples(data / "train"), find_triples(both))  # other clips of these names
    for sub in FOLDERS.values():
        shutil.copyfile(data / "train" / sub / "clip1.mp4", both / sub / "other.mp4")
        shutil.copytree(data / "train" / sub / "clip3", both / sub / "stills")
    with pytest.raises(GenPropError, match=r"2 are the same in both folders: clip1 \(other there\), clip3 \(stills th"):
        check_held_out(find_triples(data / "train"), find_triples(both))


def test_what_goes_together(train, words, tmp_path):
    train(val_data_dir=None, val_out_dir=None, max_steps=1)  # without validation nobody asks for its folders
    with pytest.raises(GenPropError, match="got none of --val_data_dir, --val_out_dir. Give them on the command line"):
        arguments.parse(words(val_data_dir=None, val_out_dir=None, val_interval=1))
    with pytest.raises(GenPropError, match=r"Expected --resume_from_checkpoint with --reset_optimizer.*Give a chec"):
        arguments.parse(words(reset_optimizer=True))


def test_settings(capsys, tmp_path, words):
    from trainer.train import main

    assert main(["--train_data_dir", "x"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "got none of --val_data_dir, --output_dir, --val_out_dir. Give them on the command line or in" in said
    assert main(["--config"]) == 2 and capsys.readouterr().err == "error: argument --config: expected one argument\n"
    path = tmp_path / "bad.toml"
    path.write_text("learning_rate = 1e-4\n")
    with pytest.raises(GenPropError, match=r"got learning_rate\. --help lists them"):
        arguments.parse(["--config", str(path), *words()])
    path.write_text("gradient_checkpointing = 1\n")
    with pytest.raises(GenPropError, match=r"Expected true or false for gradient_checkpointing"):
        arguments.parse(["--config", str(path), *words()])


def test_help_groups_every_setting(capsys):
    with pytest.raises(SystemExit):
        arguments.parse(["--help"])
    said = capsys.readouterr().out
    for group in ("data", "model", "optimisation", "loss and noise", "validation", "saving and resuming", "logging"):
        assert f"\n{group}" in said
    assert all(a.help for a in arguments.build_parser()._actions)


def test_batches_of_unequal_sizes_are_refused(train, data, tmp_path):
    mixed = shutil.copytree(data / "train", tmp_path / "mixed")
    for sub in FOLDERS.values():
        rewrite(mixed / sub / "clip1.mp4", lambda frames: torch.cat([frames, frames], dim=2))
    with pytest.raises(
        GenPropError, match=r"one size for --batch_size 2, but clip0 is 64x64, clip1 is 128x64\. Give --res"
    ):
        train(train_data_dir=mixed, batch_size=2)


def test_resuming_what_is_missing_or_of_another_run(train, tmp_path):
    train(max_steps=1)
    with pytest.raises(GenPropError, match=r"already holds a run \(step_00000001\)\. Continue it by --resume_from_ch"):
        train(max_steps=2)
    with pytest.raises(
        GenPropError, match=r"Expected a checkpoint folder \(with state\.json\) at .*nowhere, but there"
    ):
        train(resume_from_checkpoint=tmp_path / "nowhere")
    with pytest.raises(
        GenPropError, match=r"lr was 0\.001, now 0\.5; seed was 42, now 7\. Give the same settings, or --res"
    ):
        train(resume_from_checkpoint="latest", lr=0.5, seed=7)
    with pytest.raises(GenPropError, match=r"num_blocks was 2, now 1\. Choose another checkpoint"):
        train(resume_from_checkpoint="latest", num_blocks=1, reset_optimizer=True)
    with pytest.raises(GenPropError, match=r"selection was on, now off; show_source was on, now off\. Choose another"):
        train(resume_from_checkpoint="latest", selection="off", show_source="off", reset_optimizer=True)


def test_resuming_with_another_length_is_a_warning(train, tmp_path, caplog):
    again = {"resume_from_checkpoint": "latest"}
    train(max_steps=2)
    train(max_steps=2, **again)
    assert caplog.messages == []
    train(max_steps=3, **again)
    train(max_steps=1, **again)
    longer, beyond = caplog.messages
    assert "step_00000002 is from a run of 2 steps, this one has 3: learning rate and" in longer
    assert "step_00000003 is at step 3, beyond the 1 steps of this run: nothing is trained. Raise" in beyond
    path = tmp_path / "out" / "checkpoints" / "step_00000003" / "state.json"  # as it was before the length was noted
    state = json.loads(path.read_text())
    assert state["settings"].pop("total_steps") == 3
    path.write_text(json.dumps(state))
    train(max_steps=4, **again)
    assert len(caplog.messages) == 2


def test_resuming_with_other_clips(train, tmp_path, data, caplog):
    clips, again = shutil.copytree(data / "train", tmp_path / "clips"), {"resume_from_checkpoint": "latest"}
    train(max_steps=1, train_data_dir=clips)
    train(max_steps=2, train_data_dir=shutil.copytree(clips, tmp_path / "elsewhere"), **again)
    (clips / "tasks.csv").write_text("name,task\nclip1,track\n")
    with pytest.raises(GenPropError, match=r"the clips of .*others, by their names or tasks\. Give the"):
        train(max_steps=3, train_data_dir=clips, **again)
    (clips / "tasks.csv").unlink()
    for sub in FOLDERS.values():
        (clips / sub / "clip1.mp4").rename(clips / sub / "other.mp4")
    with pytest.raises(GenPropError, match=r"others, by their names or tasks\. Give the same settings, or --reset_opt"):
        train(max_steps=3, train_data_dir=clips, cache_dir="none", **again)
    for sub in FOLDERS.values():
        (clips / sub / "other.mp4").rename(clips / sub / "clip1.mp4")
    rewrite(clips / "original_videos" / "clip1.mp4", lambda frames: 255 - frames)
    with pytest.raises(GenPropError, match=r"configuration: the clips of .* had other contents\. Give the same"):
        train(max_steps=3, train_data_dir=clips, **again)
    path = tmp_path / "out" / "checkpoints" / "step_00000002" / "state.json"  # as it was before clips were noted
    state = json.loads(path.read_text())
    del state["settings"]["clip_names"], state["settings"]["clip_contents"]
    path.write_text(json.dumps(state))
    train(max_steps=3, train_data_dir=clips, **again)
    assert sum("does not say which clips it was trained on" in text for text in caplog.messages) == 1


def test_a_cache_of_another_base_and_a_changed_clip(train, tmp_path, data, make_base):
    cache, changed = tmp_path / "cache", shutil.copytree(data / "train", tmp_path / "train")
    train(cache_dir=cache, max_steps=1, train_data_dir=changed, output_dir=tmp_path / "a")
    before = {p.name for p in cache.glob("*.safetensors")}
    rewrite(changed / "original_videos" / "clip1.mp4", lambda frames: 255 - frames)
    train(cache_dir=cache, max_steps=1, train_data_dir=changed, output_dir=tmp_path / "b")
    assert len({p.name for p in cache.glob("*.safetensors")} - before) == 1
    other = make_base(tmp_path / "other.safetensors", seed=9)
    with pytest.raises(
        GenPropError, match=r"cache .* was made with another base .*Choose another --cache_dir, or delete"
    ):
        train(cache_dir=cache, base=other, output_dir=tmp_path / "c")


def test_a_tracker_that_is_not_installed(train, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    with pytest.raises(GenPropError, match=r"wandb to be installed for --tracker wandb\. Run: pip install wandb"):
        train(tracker="wandb")
    default = arguments.build_parser().get_default("tracker")  # is installed by the commands that a reader starts from
    for page in ("README.md", "docs/training.md"):
        assert re.search(rf"^pip install .*-r requirements\.txt {default}$", (ROOT / page).read_text("utf-8"), re.M)


def test_an_empty_window_is_allowed_and_counted(train, data, tmp_path):
    from trainer.logs import read_log

    late = shutil.copytree(data / "val", tmp_path / "late")
    for name in ("clip10", "clip11"):
        rewrite(late / "masks" / f"{name}.mp4",
                lambda frames: torch.cat([torch.zeros_like(frames[:5]), torch.full_like(frames[:1], 255)]))  # fmt: skip
    train(train_data_dir=late, max_steps=6)
    rows = read_log(tmp_path / "out" / "log.jsonl")
    empty = [row for row in rows if row["without_mask"] == 1]
    assert 0 < len(empty) < len(rows) and all(row["L_mask"] == 0 and np.isfinite(row["L_total"]) for row in empty)


def test_errors_are_one_line_and_an_exit_code(words, tmp_path, capsys):
    from trainer.train import main

    assert main(words(train_data_dir=tmp_path / "none")) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "Expected a folder" in said[0]
