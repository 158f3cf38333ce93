"""Many clips by one command: each row once, finished ones skipped, failed ones told, spread over processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stand_in import StandInPipeline, clip, edited

from genprop_core import cli, device, manifest, propagate
from genprop_core.errors import GenPropError
from genprop_core.video_io import read_video, write_image, write_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pipeline(monkeypatch):
    made = StandInPipeline()
    monkeypatch.setattr(propagate, "load_model", lambda arguments, device: made)
    return made


@pytest.fixture
def folder(tmp_path):
    frames = clip(10)
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", frames.movedim(1, -1), 8, lossless=True)
    for index in (0, 6):
        write_image(tmp_path / f"k{index}.png", (edited(frames, index) * 255).round().byte().movedim(0, -1))
    (tmp_path / "broken.mp4").write_bytes(b"none")
    return tmp_path


def run(folder, name, text, *more):
    (folder / name).write_text(text, encoding="utf-8")
    return cli.main(["propagate", "--manifest", str(folder / name), "--out", str(folder / "out"), *more])


TABLE = "source,keyframe,seed,out\na.mp4,k0.png,3,\nb.mp4,0:k0.png;6:k6.png,,second\nbroken.mp4,k0.png,,\n"


def test_rows_are_done_once_and_a_failed_one_does_not_stop_the_others(folder, pipeline, capsys):
    assert run(folder, "clips.csv", TABLE, "--seed", "5") == 1
    assert pipeline.seeds == [3, 5]
    out = folder / "out"
    assert sorted(p.name for p in out.iterdir()) == ["a", "broken", "second"]
    assert len(read_video(out / "a" / "result.mp4").frames) == 10 and (out / "second" / "confidence.png").exists()
    assert "broken.mp4" in (out / "broken" / "error.txt").read_text() and not (out / "broken" / "metrics.json").exists()
    said = capsys.readouterr().out
    assert "2 done, 0 were done already, 1 failed" in said and "failed: row 3" in said and "cannot be opened" in said
    # the next start does only what is left
    write_video(folder / "broken.mp4", clip(10).movedim(1, -1), 8)
    assert run(folder, "clips.csv", TABLE, "--seed", "5") == 0
    assert pipeline.seeds == [3, 5, 5] and "1 done, 2 were done already, 0 failed" in capsys.readouterr().out
    assert not (out / "broken" / "error.txt").exists()
    # one whose file was changed, or whose result is gone, is done again
    write_image(folder / "k0.png", clip(10)[0].movedim(0, -1))
    (out / "broken" / "result.mp4").unlink()
    assert run(folder, "clips.csv", TABLE, "--seed", "5") == 0
    assert pipeline.seeds[3:] == [3, 5, 5] and "3 done, 0 were done already" in capsys.readouterr().out
    del pipeline.seeds[3:]
    # and a row that asks for something else; a folder whose row is done does not say that one failed
    (out / "second" / "error.txt").write_text("another row's")
    assert run(folder, "clips.csv", TABLE.replace("k0.png,3", "k0.png,4"), "--seed", "5") == 0
    assert pipeline.seeds == [3, 5, 5, 4] and not (out / "second" / "error.txt").exists()


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl"])
def test_only_the_end_of_a_line_ends_a_row(folder, name):
    """Names and titles may hold any other sign, and a quoted value in a table even a new line."""
    odd = "a \u2028 b" if name.endswith("jsonl") else "a \n b"
    row = json.dumps({"source": odd}, ensure_ascii=False) if name.endswith("jsonl") else f'source,steps\n"{odd}",3'
    (folder / name).write_text(f"{row}\n", encoding="utf-8")
    assert [row["source"] for row in manifest._rows(folder / name)] == [odd]


def test_lines_of_json_say_the_same(folder, pipeline):
    lines = [{"source": "a.mp4", "keyframes": {"0": "k0.png", "6": "k6.png"}, "composite": "off"},
             {"source": "a.mp4", "keyframe": ["6:k6.png"], "mask-mode": "join", "lossless": "on"}]  # fmt: skip
    assert run(folder, "clips.jsonl", "\n".join(json.dumps(line) for line in lines)) == 0
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["a", "a-2"]
    stated = [json.loads((folder / "out" / n / "metrics.json").read_text())["settings"] for n in ("a", "a-2")]
    assert [s["composite"] for s in stated] == ["off", "on"] and stated[1]["mask_mode"] == "join"
    assert [len(s["keyframe"]) for s in stated] == [2, 1] and [s["lossless"] for s in stated] == ["off", "on"]


def digests(path, *more):
    given = ["propagate", "--manifest", str(path), "--out", "out", *map(str, more)]
    return [row.digest for row in manifest.read_manifest(cli.build_parser().parse_args(given))]


def test_a_row_is_another_when_a_picture_in_its_folders_is(folder, monkeypatch):
    """However the manifest's path is spelled, and wherever the results are."""
    for name in ("0.png", "1.png"):
        write_image(folder / "frames" / name, clip(2)[0].movedim(0, -1))
    (folder / "base" / "unet").mkdir(parents=True)
    (folder / "base" / "unet" / "weights.bin").write_bytes(b"1")
    (folder / "m.csv").write_text("source,keyframe,mask\nframes,0:k0.png,frames\n")
    monkeypatch.chdir(folder)
    first = digests("m.csv", "--base", "base")
    assert digests(folder / "base" / ".." / "m.csv", "--base", folder / "base") == first
    monkeypatch.chdir(folder / "frames")
    assert digests("../m.csv", "--base", "../base") == first and digests("../m.csv") == digests(folder / "m.csv")
    (folder / "frames" / "out").mkdir()
    (folder / "frames" / "out" / "result.mp4").write_bytes(b"made")
    assert digests("../m.csv", "--base", "../base") == first
    seen = {*first}
    for name in ("frames/1.png", "frames/2.png", "base/unet/weights.bin"):
        (folder / name).write_bytes(b"changed")
        seen |= {*digests("../m.csv", "--base", "../base")}
    assert len(seen) == 4


@pytest.mark.parametrize(
    "sources, names",
    [
        (["x/Clip.mp4", "y/clip.mp4"], ["Clip", "clip-2"]),  # one folder on many a disk
        (["a.mp4", "b.mp4", "a.mp4", "a.mov"], ["a", "b", "a-2", "a-3"]),
        (["a.mp4", "a-2.mp4", "a.mp4"], ["a", "a-2", "a-3"]),
        (["a.mp4", "a.mp4", "a-2.mp4", "A-2.mp4"], ["a", "a-2", "a-2-2", "A-2-3"]),
        (["x.mp4,a", "a.mp4", "a.mp4"], ["a", "a-2", "a-3"]),
        (["", ""], ["out", "-2"]),
    ],
)
def test_every_row_has_a_folder_that_rows_added_later_leave_to_it(folder, sources, names):
    for count in range(1, len(sources) + 1):
        (folder / "m.csv").write_text("\n".join(["keyframe,source,out", *(f"k0.png,{s}" for s in sources[:count])]))
        given = ["propagate", "--manifest", str(folder / "m.csv"), "--out", "out"]
        rows = manifest.read_manifest(cli.build_parser().parse_args(given))
        assert [row.arguments.out.name for row in rows] == names[:count]


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("clips.txt", "source\n", "ending in .csv or .jsonl"),
        ("clips.csv", "source,keyframe\n", "at least one row"),
        ("clips.csv", "source,colour\na.mp4,red\n", "Row 1 .* colour is no option of a clip"),
        ("clips.csv", "source,base\na.mp4,mini\n", "Row 1 .* base is no option of a clip"),
        ("clips.csv", "source,seed\na.mp4,one\n", "Row 1 .* invalid int value: 'one'"),
        ("clips.csv", "source,crop\na.mp4,on\n", "Row 1 .* invalid choice"),
        ("clips.csv", "source,keyframe\na.mp4,k0.png,3\n", "Row 1 .* more values than there are columns"),
        ("clips.csv", "source,out\na.mp4,x\nb.mp4,x\n", "rows 1 and 2 both write to"),
        ("clips.csv", "source,out\na.mp4,X\nb.mp4,x\n", "rows 1 and 2 both write to"),
        ("clips.jsonl", '{"source": 1', "Row 1 .* no JSON"),
        ("clips.jsonl", "[1]", "Row 1 .* expected an object"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_at_once(folder, pipeline, capsys, name, text, wanted):
    import re

    assert run(folder, name, text) == 2 and pipeline.seeds == []
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and re.search(wanted, errors[0]), errors


def test_a_clips_own_files_are_not_given_beside_the_manifest(folder, pipeline, capsys):
    assert run(folder, "clips.csv", TABLE, "--source", "a.mp4") == 2
    assert "without --source and --keyframe" in capsys.readouterr().err


def test_every_process_does_its_share(folder, pipeline, monkeypatch):
    table = "source,keyframe,out,seed\n" + "".join(f"a.mp4,k0.png,r{i},{i}\n" for i in range(5))
    done = []
    for index in range(3):
        monkeypatch.setattr(manifest, "this_process", lambda index=index: (index, 3, torch.device("cpu")))
        pipeline.seeds.clear()
        assert run(folder, "clips.csv", table) == 0
        done.append(list(pipeline.seeds))
    assert done == [[0, 3], [1, 4], [2]]
    monkeypatch.setattr(manifest, "this_process", lambda: (1, 2, None))  # one that failed would stop all the others
    assert run(folder, "clips.csv", table.replace("a.mp4,k0.png,r1", "gone.mp4,k0.png,s1")) == 0
    assert (folder / "out" / "s1" / "error.txt").exists()


def test_processes_are_numbered_by_accelerate(tmp_path):
    code = (
        "import pathlib, sys; from genprop_core.manifest import this_process; index, count, _ = this_process(); "
        "pathlib.Path(sys.argv[1], str(index)).write_text(str(count))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    done = subprocess.run([*script, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                          env=environment, timeout=600)  # fmt: skip
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"0": "2", "1": "2"}, done.stderr[-2000:]
    assert manifest.this_process() == (0, 1, None)


@pytest.mark.parametrize("names", list(zip(*manifest.NUMBERS)), ids=["torchrun", "PMI", "OpenMPI", "MVAPICH"])
def test_every_launcher_numbers_its_processes(names, monkeypatch):
    for name in sum(manifest.NUMBERS, ()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    rank, size, local = names
    monkeypatch.setenv(size, "4")
    with pytest.raises(GenPropError, match="number of this process, 0 to 3, .* got none. Start it by accelerate"):
        manifest.this_process()
    monkeypatch.setenv(rank, "3")
    monkeypatch.setenv(local, "1")
    assert manifest.this_process() == (3, 4, None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert manifest.this_process() == (3, 4, torch.device("cuda:1"))
    monkeypatch.setenv(rank, "4")
    with pytest.raises(GenPropError, match="got 4"):
        manifest.this_process()


def test_a_process_keeps_to_its_own_accelerator(folder, pipeline, monkeypatch):
    """A device by its kind alone would be the first one, for all of them."""
    own, given = torch.device("cuda", 2), []
    monkeypatch.setattr(manifest, "this_process", lambda: (2, 4, own))
    monkeypatch.setattr(propagate, "load_model", lambda arguments, device: given.append(device) or pipeline)
    table = "source,keyframe,out\n" + "a.mp4,k0.png,r1\n" + "".join(f"gone.mp4,k0.png,r{i}\n" for i in range(2, 5))
    for more in ([], ["--device", "cuda"], ["--device", "cuda:0"], ["--device", "cpu"]):
        run(folder, "clips.csv", table, *more)
    assert given == ["cuda:2", "cuda:2", "cuda:0", "cpu"]


def test_a_torch_that_knows_no_accelerators_is_asked_for_those_it_has(monkeypatch):
    monkeypatch.delattr(torch, "accelerator")
    for kind in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    assert device.accelerator() is device.own_accelerator(1) is None
    assert device.chosen_device(None) == "cpu" and device.chosen_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.chosen_device(None) == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.chosen_device(None) == "cuda" and device.own_accelerator(3) == torch.device("cuda", 1)


def test_keyframes_are_named_by_their_index(tmp_path):
    from genprop_core.clip_files import keyframe_paths

    assert keyframe_paths(["a.png", "12:b.png", r"C:\c.png", "3:C:/d.png"]) == [
        (0, Path("a.png")), (12, Path("b.png")), (0, Path(r"C:\c.png")), (3, Path("C:/d.png"))]  # fmt: skip
    with pytest.raises(GenPropError, match="no --source, no --out"):
        from genprop_core.clip_files import read_clip

        read_clip(SimpleNamespace(source=None, keyframe=["a.png"], out=None))
