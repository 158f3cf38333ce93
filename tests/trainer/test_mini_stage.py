"""One stage of the mini's training: its state, its log and its learning rate."""

import json

import pytest
import torch

from genprop_core.errors import GenPropError
from trainer.logs import read_log
from trainer.mini.stage import EMA, Stage


def _stage(folder, seed=0, **begun):
    torch.manual_seed(seed)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    ema = EMA(module.parameters(), 0.9)
    return module, optimizer, ema, Stage(folder, "toy", 10, {"module": module}, optimizer, ema, **begun)


def _train(module, _optimizer, _ema, stage, steps):
    for _ in range(steps):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(stage.step))
        stage.descend(module(x).square().mean())


def test_a_stage_resumes_exactly_where_it_was(tmp_path):
    straight = _stage(tmp_path / "straight")
    _train(*straight, 6)
    first = _stage(tmp_path / "halves")
    _train(*first, 3)
    first[3].save()
    second = _stage(tmp_path / "halves", seed=1)
    assert second[3].step == 3 and second[3].elapsed > 0
    _train(*second, 3)
    for a, b in zip(straight[0].parameters(), second[0].parameters()):
        assert torch.equal(a, b)
    for a, b in zip(straight[2].shadow, second[2].shadow):
        assert torch.equal(a, b)
    assert [p.name for p in (tmp_path / "halves").iterdir()] == ["toy.state.safetensors"]


def test_a_step_clips_the_gradient_and_moves_the_average(tmp_path):
    module, _, ema, stage = _stage(tmp_path)
    before = [p.detach().clone() for p in module.parameters()]
    norm = stage.descend(100 * module(torch.ones(1, 3)).square().sum())
    clipped = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    assert norm > 10 and abs(clipped - 1) < 1e-4 and stage.step == 1
    for old, new, average in zip(before, module.parameters(), ema.shadow):
        assert not torch.equal(old, new)
        torch.testing.assert_close(average, old.lerp(new.detach(), 1 - 2 / 11))


def test_learning_rate_follows_the_time_used(tmp_path):
    _, optimizer, _, stage = _stage(tmp_path)
    assert stage.learning_rate(1.0) == 0.0  # warm-up starts at 0
    stage.step, stage.used = 1000, 5 * 60
    rate = stage.learning_rate(1.0)
    assert abs(rate - 0.51) < 1e-3 and optimizer.param_groups[0]["lr"] == rate
    stage.used = 11 * 60
    assert stage.progress == 1.0 and abs(stage.learning_rate(1.0) - 0.02) < 1e-6


def test_the_log_is_read_back(tmp_path):
    _, _, _, stage = _stage(tmp_path)
    stage.log(loss=0.5)
    assert read_log(tmp_path / "toy.jsonl")[0]["loss"] == 0.5


def test_a_resumed_stage_logs_every_step_once_and_no_line_that_was_cut_off(tmp_path):
    begun = {"started_from": "a", "start": "x.safetensors"}
    *parts, stage = _stage(tmp_path, **begun)
    for _ in range(3):  # the last of them after the state was saved
        _train(*parts, stage, 1)
        stage.log(loss=0.5)
        if stage.step == 2:
            stage.save()
    with open(tmp_path / "toy.jsonl", "a") as file:
        file.write('{"step": 4, "min')  # killed here
    *parts, stage = _stage(tmp_path, **begun)
    _train(*parts, stage, 1)
    stage.log(loss=0.5)
    assert [json.loads(line)["step"] for line in (tmp_path / "toy.jsonl").read_text().splitlines()] == [0, 1, 2, 3]
    with pytest.raises(GenPropError, match=r"began from x \(b\), but that in .* began from a\. Remove the files"):
        _stage(tmp_path, started_from="b", start="x")
    with pytest.raises(GenPropError, match="began from fresh weights, but that in .* began from a"):
        _stage(tmp_path)
    stage.path.unlink()
    *_, stage = _stage(tmp_path)
    assert not stage.rows.exists() and len(read_log(tmp_path / "toy.before.jsonl")) == 4
