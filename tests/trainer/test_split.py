"""Splitting moves whole triples, even when it is killed at any point."""

import pytest

from genprop_core.errors import GenPropError
from trainer import split as module
from trainer.dataset import FOLDERS, find_triples, list_clips
from trainer.held_out import held_out
from trainer.split import main, split


@pytest.fixture
def folders(tmp_path):
    train = tmp_path / "train"
    for sub in FOLDERS.values():
        (train / sub).mkdir(parents=True)
        for index in range(8):
            (train / sub / f"clip{index}.mp4").write_text(f"{sub} {index}")
    (train / "tasks.csv").write_text("name,task\n" + "".join(f"clip{i},edit\n" for i in range(8)))
    return train, tmp_path / "val"


def names(folder):
    return [set(list_clips(folder / sub)) for sub in FOLDERS.values()]


def check_whole(train, val, moved):
    for folder, expected in ((train, {f"clip{i}" for i in range(8)} - set(moved)), (val, set(moved))):
        assert names(folder) == [expected] * 3
        rows = (folder / "tasks.csv").read_text().split()[1:]
        assert set(rows) == {f"{n},edit" for n in expected}
    for name in moved:
        assert (val / "masks" / f"{name}.mp4").read_text() == f"masks {name[-1]}"


def test_moves_whole_triples_once(folders, capsys):
    train, val = folders
    arguments = ["--num_samples", "3", "--train_dir", str(train), "--val_dir", str(val), "--seed", "7"]
    assert main([*arguments, "--dry_run"]) == 0 and not val.exists()
    announced = capsys.readouterr().out.split()[-3:]
    assert main(arguments) == 0
    check_whole(train, val, announced)
    assert split(train, val, 3, 7) == []
    check_whole(train, val, announced)
    assert held_out(train) == set(announced) and held_out(val) == set()
    assert split(train, val, 5, 7) != [] and len(names(val)[0]) == 5
    assert held_out(train) == names(val)[0]


def test_other_columns_of_the_table_move_with_their_clips(folders):
    train, val = folders
    (train / "tasks.csv").write_text("name,task,note\n" + "".join(f"clip{i},edit,note {i}\n" for i in range(8)))
    moved = split(train, val, 3, 7)
    for folder, count in ((train, 5), (val, 3)):
        head, *rows = (folder / "tasks.csv").read_text().splitlines()
        assert head == "name,task,note" and len(rows) == count
        assert all(row == f"clip{row[4]},edit,note {row[4]}" for row in rows)
    assert len(moved) == 3


@pytest.mark.parametrize("moves", range(10))
def test_killed_after_any_move_it_is_finished_by_the_next_run(folders, monkeypatch, moves):
    train, val = folders
    move, done = module.move_file, []

    def dying(source, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        move(source, target)

    monkeypatch.setattr(module, "move_file", dying)
    if moves < 9:
        with pytest.raises(KeyboardInterrupt):
            split(train, val, 3, 1)
        monkeypatch.undo()
        for folder in (train, val):  # neither is whole, whatever has been moved
            with pytest.raises(GenPropError, match=r"stopped\. Run it again with --train_dir .*train --val_dir .*val:"):
                find_triples(folder)
        with pytest.raises(GenPropError, match=r"--val_dir .*val: it finishes"):
            split(train, val.with_name("other"), 3, 1)
    expected = module.choose([f"clip{i}" for i in range(8)], 3, 1)
    split(train, val, 3, 1)
    check_whole(train, val, expected)
    assert not (val / module.SPLIT_NOTE).exists() and not (train / module.SPLIT_NOTE).exists()
    assert len(find_triples(val)) == 3 and len(find_triples(train)) == 5


def test_ctrl_c_is_one_line(folders, monkeypatch, capsys):
    train, val = folders
    arguments = ["--num_samples", "3", "--train_dir", str(train), "--val_dir", str(val)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "move_file", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(arguments) == 130
    assert capsys.readouterr().err == "stopped: the same command finishes what it began\n"
    assert main(arguments) == 0 and len(names(val)[0]) == 3


def test_another_disk(folders, monkeypatch):
    train, val = folders
    replace = module.os.replace

    def across(a, b):
        if str(train) in str(a) and str(val) in str(b):
            raise OSError(18, "Invalid cross-device link")
        replace(a, b)

    monkeypatch.setattr(module.os, "replace", across)
    check_whole(train, val, split(train, val, 3, 1))


def test_clips_with_dots_in_their_names_keep_their_tasks(tmp_path):
    train, val = tmp_path / "train", tmp_path / "val"
    for sub in FOLDERS.values():
        (train / sub).mkdir(parents=True)
        for index in range(3):
            (train / sub / f"shot.v{index}.mp4").write_text(sub)
    (train / "tasks.csv").write_text("name,task\nshot.v0,edit\nshot.v1.mp4,edit\nshot.v2,edit\n")
    assert len(split(train, val, 2, 1)) == 2
    assert [t.task for t in find_triples(train) + find_triples(val)] == ["edit"] * 3


@pytest.mark.parametrize("left", ["masks/clip{}.mp4", "masks/clip{}.mov", "edited_videos/clip{}.mp4"])
def test_what_is_left_in_the_validation_folder_is_not_taken_for_a_clips(folders, left):
    train, val = folders
    path = val / left.format(split(train, val, 1, 1, dry_run=True)[0][-1])
    path.parent.mkdir(parents=True)
    path.write_text("an old one")
    for dry_run in (True, False):
        with pytest.raises(GenPropError, match=r"train and .*val both hold clip\d\. Rename or remove one of each"):
            split(train, val, 1, 1, dry_run)
    path.unlink()
    path.with_suffix(".mp4").mkdir()
    with pytest.raises(GenPropError, match=r"Expected nothing yet where clips are moved to, got .*clip\d\.mp4\. Rem"):
        split(train, val, 1, 1)
    assert names(train) == [{f"clip{i}" for i in range(8)}] * 3 and not (val / module.SPLIT_NOTE).exists()


def test_bad_input(folders):
    train, val = folders
    with pytest.raises(
        GenPropError, match=r"fewer samples than clips: .*train has 8, 8 are to be moved\. Lower --num_s"
    ):
        split(train, val, 8, 1)
    (train / "masks" / "clip3.mp4").unlink()
    with pytest.raises(GenPropError, match=r"masks lacks clip3\. Add what is missing"):
        split(train, val, 3, 1)
