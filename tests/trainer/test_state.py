"""Runs that are killed, spread over processes, or run out of disk."""

import errno
import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors
from trainer.checkpoint_state import Checkpoints
from trainer.logs import read_log


def state(folder):
    tensors, _ = load_tensors(Checkpoints(folder, 1).all()[-1] / "state.safetensors")
    return tensors


def numbers(folder):
    timing = ("clips_per_second",)
    return [{k: v for k, v in row.items() if k not in timing} for row in read_log(folder / "log.jsonl")]


def finish(process, timeout: float) -> str:
    """The output of a command. One that does not end in time is made to say where each of its processes stands."""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True) or [process]:
            child.send_signal(signal.SIGABRT)
        pytest.fail(f"No end after {timeout} s:\n{process.communicate()[0]}")


def test_killed_three_times_and_resumed_is_the_run_that_was_never_killed(train, words, launch, tmp_path):
    settings = {"max_steps": 12, "save_steps": 2, "keep": 2, "keyframes_max": 2, "cache_dir": tmp_path / "cache"}
    train(output_dir=tmp_path / "whole", **settings)
    killed = tmp_path / "killed"
    command = words(output_dir=killed, resume_from_checkpoint="latest", **settings)
    for stop_at in (2, 5, 8):
        process = launch(command)
        deadline = time.monotonic() + 120
        while len(read_log(killed / "log.jsonl")) < stop_at and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random.random() * 0.1)
        process.kill()
        output, _ = process.communicate()
        assert process.returncode == (1 if os.name == "nt" else -signal.SIGKILL), output
        assert Checkpoints(killed, 2).find("latest") is not None
    train(output_dir=killed, resume_from_checkpoint="latest", **settings)
    whole, resumed = state(tmp_path / "whole"), state(killed)
    assert whole.keys() == resumed.keys()
    assert [k for k in whole if not whole[k].equal(resumed[k])] == []
    assert numbers(tmp_path / "whole") == numbers(killed)
    assert sorted(p.name for p in (killed / "checkpoints").iterdir()) == ["step_00000010", "step_00000012"]


def test_two_processes_train_like_one(train, words, launch, tmp_path):
    settings = {"max_steps": 3, "gradient_accumulation_steps": 2, "reverse": 0.5, "val_interval": 1}
    process = launch(words(output_dir=tmp_path / "two", batch_size=1, val_out_dir=tmp_path / "v2", **settings), 2)
    output = finish(process, timeout=600)
    assert process.returncode == 0, output
    train(output_dir=tmp_path / "one", batch_size=2, val_out_dir=tmp_path / "v1", **settings)
    one, two = ([r for r in numbers(tmp_path / n) if "lr" in r] for n in ("one", "two"))
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    assert sorted(p.name for p in (tmp_path / "v1").rglob("*.*")) == sorted(
        p.name for p in (tmp_path / "v2").rglob("*.*")
    )


@pytest.mark.parametrize("file", ["state.safetensors", "adapters.safetensors", "state.json"])
def test_a_full_disk_leaves_the_earlier_checkpoint_whole(train, tmp_path, monkeypatch, file):
    train(max_steps=2, save_steps=1)
    import safetensors.torch

    from trainer import checkpoint_state

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    def saved(tensors, path, **settings):
        if part in str(path):  # what safetensors itself makes of it
            raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device")
        save_file(tensors, path, **settings)

    save_file = safetensors.torch.save_file
    if file == "state.json":
        monkeypatch.setattr(checkpoint_state, "write_json", full)
    else:
        part = file.split(".")[0]
        monkeypatch.setattr(safetensors.torch, "save_file", saved)
    with pytest.raises(
        GenPropError, match=r"checkpoint of step 3 cannot be written .*No space left.*Earlier ones are whole"
    ):
        train(max_steps=4, save_steps=1, resume_from_checkpoint="latest", lr_scheduler="cosine")
    monkeypatch.undo()
    found = Checkpoints(tmp_path / "out", 3).find("latest")
    assert found.name == "step_00000002" and load_tensors(found / "state.safetensors")
    assert not list((tmp_path / "out" / "checkpoints").glob(".making*"))


def test_a_full_disk_is_one_line_for_the_log_and_the_cache_too(train, tmp_path, monkeypatch):
    import builtins

    import safetensors.torch

    def full(path, mode="r", *rest, **settings):
        if str(path).endswith("log.jsonl") and "a" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *rest, **settings)

    def unsaved(tensors, path, **settings):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device")

    opened, cache = builtins.open, tmp_path / "out" / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", unsaved)
        with pytest.raises(GenPropError, match=r"of clip0 cannot be written to .*cache \(.*No space left.*Make space"):
            train(max_steps=1)
    assert [p.name for p in cache.iterdir()] == ["cache.json"]
    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(GenPropError, match=r"log cannot be written to .*log\.jsonl \(No space left.*continue with"):
        train(max_steps=1)
    assert Checkpoints(tmp_path / "out", 1).find("latest").name == "step_00000000"


def test_a_damaged_newest_checkpoint_is_passed_over(train, tmp_path, caplog):
    train(max_steps=2, save_steps=1)
    newest = tmp_path / "out" / "checkpoints" / "step_00000002" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert Checkpoints(tmp_path / "out", 3).find("latest").name == "step_00000001"
    assert "truncated" in caplog.text


def test_an_old_checkpoint_that_cannot_be_removed_stays_until_the_next_save(train, tmp_path, monkeypatch, caplog):
    replace, folder = os.replace, tmp_path / "out" / "checkpoints"

    def in_use(a, b):
        if ".old-" in str(b) and len(caplog.records) < 2:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(a, b)

    monkeypatch.setattr(os, "replace", in_use)
    train(max_steps=3, save_steps=1, keep=1)
    assert sorted(p.name for p in folder.iterdir()) == ["step_00000003"]
    assert [text.split(" cannot be removed (Permission denied). ")[0][-13:] for text in caplog.messages] == [
        "step_00000000",
        "step_00000000",
    ]
    (folder / "step_00000003-old").mkdir()
    assert Checkpoints(tmp_path / "out", 1).find("latest").name == "step_00000003"
