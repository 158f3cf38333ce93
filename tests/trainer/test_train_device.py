"""The real trainer on another device than the CPU: what a GPU refuses is found without one."""

import pytest
import torch
from accelerate import Accelerator
from pretend_device import DEVICE, pretend_device

from genprop_core.files import load_tensors
from trainer.logs import read_log


def test_it_trains_validates_saves_and_resumes_there(train, tmp_path, monkeypatch):
    runs = {}
    for name in ("cpu", "there"):
        settings = dict(
            output_dir=tmp_path / name, val_out_dir=tmp_path / name / "val", num_inference_steps=1, val_num_frames=2,
            fast_validation=True, worn_keyframes=0.5, handed_every=2, corrupt_source="blur",
        )  # fmt: skip
        if name == "cpu":
            train(max_steps=3, **settings)
        else:
            monkeypatch.setattr(Accelerator, "device", DEVICE)
            with pretend_device():
                train(max_steps=2, lr_scheduler="constant", **settings)
                train(max_steps=3, lr_scheduler="constant", resume_from_checkpoint="latest", val_interval=1, **settings)
        runs[name] = read_log(tmp_path / name / "log.jsonl")
    rows = {name: [row for row in log if "lr" in row] for name, log in runs.items()}
    assert [row["step"] for row in rows["there"]] == [1, 2, 3]
    for mine, expected in zip(rows["there"][:2], rows["cpu"]):
        for key in ("L_total", "L_nonmask", "L_mask", "L_mpd", "grad_norm"):
            assert mine[key] == pytest.approx(expected[key], rel=2e-2), key
    assert any("validation" in row for row in runs["there"])
    tensors = load_tensors(tmp_path / "there" / "adapters.safetensors")[0].values()
    assert all(t.device.type == "cpu" and type(t) is torch.Tensor and t.isfinite().all() for t in tensors)
