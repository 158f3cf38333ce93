"""--tracker wandb, offline: what the run left on disk is what log.jsonl and the validation folder have."""

import argparse
import json

import pytest
from wandb_file import read_run

from genprop_core.errors import GenPropError
from trainer.logs import RunLog, read_log


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """W&B without a login and a network; what it writes goes below the folder returned."""
    import wandb

    folder = tmp_path / "tracked"
    folder.mkdir()
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(folder))
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield folder
    wandb.teardown()


def test_losses_metrics_sheet_and_videos_are_in_the_offline_run(train, tmp_path, tracked, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(max_steps=2, val_interval=1, val_num_frames=6, tracker="wandb", wandb_project="clips")
    (file,) = tracked.rglob("run-*.wandb")
    run = read_run(file)
    assert run.project == "clips" and run.settings["lr"] == 1e-3 and run.settings["clips"] == 4
    assert [row["_step"] for row in run.rows] == [1, 2]

    logged = [row for row in read_log(tmp_path / "out" / "log.jsonl") if "lr" in row]
    names = {"L_total", "L_nonmask", "L_mask", "L_grad", "L_mpd", "grad_norm", "lr", "clips_per_second"}
    for row, expected in zip(run.rows, logged, strict=True):
        assert {k: row[f"train/{k}"] for k in names} == pytest.approx({k: expected[k] for k in names})

    folder = tmp_path / "val" / "step_2"
    metrics, last = json.loads((folder / "metrics.json").read_text()), run.rows[-1]
    for prefix, scores in [("validation", metrics["result"])] + [
        (f"floors/{name}", scores) for name, scores in metrics["floors"].items()
    ]:
        numbers = {f"{prefix}/{k}": v for k, v in scores.items() if isinstance(v, float)}
        assert numbers and {k: last[k] for k in numbers} == pytest.approx(numbers)

    media = {"sheet": ("image-file", "sheet.png")}
    media |= {path.stem: ("video-file", path.name) for path in folder.glob("*.mp4")}
    assert len(media) == 5  # two clips, each with its mask
    for name, (kind, made) in media.items():
        assert last[f"validation/{name}/_type"] == kind
        kept = file.parent / "files" / last[f"validation/{name}/path"]
        assert kept.stat().st_size == last[f"validation/{name}/size"] > 0
        assert kind == "image-file" or kept.read_bytes() == (folder / made).read_bytes()


def test_wandb_that_cannot_start_is_one_plain_line(tmp_path, tracked):
    from accelerate import Accelerator

    args = argparse.Namespace(output_dir=str(tmp_path), tracker="wandb", wandb_project="clips", wandb_entity=None)
    with pytest.raises(GenPropError, match=r"^W&B did not start: No API key.* set WANDB_MODE=offline, or .*$"):
        RunLog(Accelerator(log_with="wandb"), args, {}, 0, 1)


def test_without_a_folder_of_its_own_wandb_writes_beside_the_run(tmp_path, tracked, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR")
    args = argparse.Namespace(output_dir=str(tmp_path / "out"), tracker="wandb", wandb_project="clips",
                              wandb_entity=None)  # fmt: skip
    (tmp_path / "out").mkdir()
    RunLog(Accelerator(log_with="wandb"), args, {}, 0, 1).close()
    assert len(list((tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
