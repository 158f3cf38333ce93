"""The real trainer goes on: from its checkpoints, from those of another run, and from adapters."""

import json
import shutil

import pytest
import torch

from genprop_core.checkpoint import load_adapters
from genprop_core.files import load_tensors
from trainer.logs import read_log


def losses(folder):
    return [
        {k: v for k, v in row.items() if k.startswith("L_")} for row in read_log(folder / "log.jsonl") if "lr" in row
    ]


def test_reset_optimizer_takes_the_weights_only(train, tmp_path):
    train(output_dir=tmp_path / "a", max_steps=2)
    last = tmp_path / "a" / "checkpoints" / "step_00000002"
    cache = tmp_path / "a" / "cache"
    train(output_dir=tmp_path / "b", max_steps=1, lr=1e-9, warmup_steps=0, resume_from_checkpoint=last,
          reset_optimizer=True, cache_dir=cache)  # fmt: skip
    a, b = (load_adapters(tmp_path / x / "adapters.safetensors") for x in "ab")
    for (name, p), q in zip(a.adapters.state_dict().items(), b.adapters.state_dict().values()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-6, msg=name)
    assert [row["step"] for row in read_log(tmp_path / "b" / "log.jsonl")] == [1]


def test_a_new_run_in_the_folder_of_an_earlier_one_sets_that_aside(train, tmp_path, monkeypatch, caplog):
    from trainer.checkpoint_state import Checkpoints

    caplog.set_level("INFO")
    out, again = tmp_path / "out", {"resume_from_checkpoint": "latest", "reset_optimizer": True, "keep": 1}
    train(max_steps=3, keep=1, save_steps=1)
    earlier = (out / "log.jsonl").read_text()
    with monkeypatch.context() as patch:  # killed before its first checkpoint
        patch.setattr(Checkpoints, "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(max_steps=1, lr=1e-9, warmup_steps=0, **again)
    train(max_steps=1, lr=1e-9, warmup_steps=0, **again)  # from the weights that were set aside
    aside = out / "checkpoints.before-1"
    assert (aside / "log.jsonl").read_text() == earlier and len(losses(out)) == 1
    assert sum(f"log.jsonl are now in {aside}." in text for text in caplog.messages) == 1
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step_00000001"]
    a, b = (load_adapters(f / "adapters.safetensors").adapters.state_dict() for f in (aside / "step_00000003", out))
    assert all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-6) for name in a)
    train(max_steps=2, lr=1e-4, **again)
    assert (out / "checkpoints.before-2" / "step_00000001").is_dir()
    assert Checkpoints(out, 1).find("latest") == out / "checkpoints" / "step_00000002"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_going_on_from_an_older_checkpoint_leaves_the_later_ones_behind(train, tmp_path, elsewhere, monkeypatch):
    from trainer.checkpoint_state import Checkpoints

    save = Checkpoints.save

    def killed(self, step, *rest):
        save(self, step, *rest)
        raise KeyboardInterrupt

    out = tmp_path / "out"
    train(max_steps=4, save_steps=1, keep=4)
    older = out / "checkpoints" / "step_00000002"
    if elsewhere:
        older = older.rename(tmp_path / "kept")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # before it comes to where the other was
        patch.setattr(Checkpoints, "save", killed)
        train(max_steps=6, keep=1, resume_from_checkpoint=older, save_steps=3)
    beyond = out / "checkpoints.beyond-1"
    earlier = ["step_00000001"] if elsewhere else []  # of another branch perhaps
    assert sorted(p.name for p in beyond.iterdir()) == ["log.jsonl", *earlier, "step_00000003", "step_00000004"]
    assert [row["step"] for row in read_log(beyond / "log.jsonl") if "lr" in row] == [1, 2, 3, 4]
    assert Checkpoints(out, 1).find("latest").name == "step_00000003"
    train(max_steps=6, keep=1, resume_from_checkpoint="latest")
    assert [row["step"] for row in read_log(out / "log.jsonl") if "lr" in row] == [1, 2, 3, 4, 5, 6]
    assert not (out / "checkpoints.beyond-2").exists()


@pytest.mark.parametrize("step", [2, 4])
def test_going_back_to_what_was_set_aside_is_exact_and_loses_nothing(train, tmp_path, monkeypatch, step):
    """Killed before its next save, it still goes on from there, not from the branch that was there."""
    from trainer import train as module
    from trainer.checkpoint_state import Checkpoints

    def killed(*given):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    train(max_steps=2, save_steps=1)
    here, back = out / "checkpoints", out / "checkpoints.beyond-1" / f"step_{step:08d}"
    shutil.copytree(here / "step_00000002", back)
    note = json.loads((back / "state.json").read_text())
    (back / "state.json").write_text(json.dumps(note | {"step": step, "branch": "the other"}))
    (out / "adapters.safetensors").unlink()
    monkeypatch.setattr(module, "check_finite", killed)
    with pytest.raises(KeyboardInterrupt):
        train(max_steps=5, resume_from_checkpoint=back, keep=1)
    found = Checkpoints(out, 1).find("latest")
    assert [found] == list(here.iterdir()) and found.name == back.name
    assert all((found / p.name).read_bytes() == p.read_bytes() for p in back.iterdir())
    assert (out / "adapters.safetensors").read_bytes() == (back / "adapters.safetensors").read_bytes()
    aside = out / "checkpoints.beyond-2"
    assert sorted(p.name for p in aside.iterdir()) == ["log.jsonl", *(f"step_0000000{n}" for n in range(3))]
    assert "branch" not in json.loads((aside / "step_00000002" / "state.json").read_text())


def test_going_on_in_another_folder_begins_with_a_checkpoint_there(train, tmp_path, monkeypatch):
    from trainer import train as module
    from trainer.checkpoint_state import Checkpoints

    def killed(*given):
        raise KeyboardInterrupt

    other = {"output_dir": tmp_path / "other", "cache_dir": tmp_path / "out" / "cache"}
    train(max_steps=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "check_finite", killed)
        train(max_steps=3, resume_from_checkpoint=tmp_path / "out" / "checkpoints" / "step_00000002", **other)
    found = Checkpoints(tmp_path / "other", 3).find("latest")
    assert found.name == "step_00000002"
    states = [load_tensors(f / "checkpoints" / found.name / "state.safetensors")[0] for f in tmp_path.glob("o*")]
    assert len(states) == 2 and all(states[0][k].equal(states[1][k]) for k in states[0])
    train(max_steps=3, resume_from_checkpoint="latest", **other)
    assert [row["step"] for row in read_log(tmp_path / "other" / "log.jsonl")] == [3]


def test_a_validation_of_other_weights_is_none(train, tmp_path, monkeypatch):
    """Killed in a validation whose folder holds the metrics of another one."""
    from trainer.validation import Validator

    sample, file = Validator._sample, tmp_path / "val" / "step_5" / "metrics.json"
    train(max_steps=4, val_interval=1)
    earlier = (tmp_path / "val" / "epoch_1" / "metrics.json").read_text()
    assert json.loads(earlier)["step"] == 4
    file.parent.mkdir()
    file.write_text(earlier)

    def killed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Validator, "_sample", killed)
    with pytest.raises(KeyboardInterrupt):
        train(max_steps=5, val_interval=1, resume_from_checkpoint="latest")
    assert not file.exists(), "it is not left beside the videos of others"
    file.write_text(earlier)
    monkeypatch.setattr(Validator, "_sample", sample)
    train(max_steps=5, val_interval=1, resume_from_checkpoint="latest")
    assert json.loads(file.read_text())["step"] == 5
    before = file.stat().st_mtime_ns
    train(max_steps=5, val_interval=1, resume_from_checkpoint="latest")
    assert file.stat().st_mtime_ns == before, "done is done"
    assert (tmp_path / "val" / "epoch_1" / "metrics.json").read_text() == earlier


def test_starting_from_an_adapter_file(train, tmp_path):
    from genprop_core.errors import GenPropError

    cache = tmp_path / "cache"
    train(output_dir=tmp_path / "a", max_steps=2, cache_dir=cache, num_blocks=1, selection="off", show_source="off")
    file = tmp_path / "a" / "adapters.safetensors"
    train(output_dir=tmp_path / "b", max_steps=1, lr=1e-9, warmup_steps=0, init_adapters=file, cache_dir=cache)
    a, b = (load_adapters(tmp_path / x / "adapters.safetensors") for x in "ab")
    assert a.adapters.config == b.adapters.config and b.provenance["settings"]["num_blocks"] == 1  # the file's form
    for name, value in a.adapters.state_dict().items():
        torch.testing.assert_close(b.adapters.state_dict()[name], value, rtol=1e-3, atol=1e-6, msg=name)
    with pytest.raises(GenPropError, match=r"--num_blocks 1, not 2, --selection off, not on\. Leave these settings"):
        train(output_dir=tmp_path / "d", num_blocks=2, selection="on", init_adapters=file, cache_dir=cache)
