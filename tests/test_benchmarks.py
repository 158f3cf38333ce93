"""The benchmarks' own arithmetic, one of them end to end, and the page that is made from their numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import common, plots, profile, results, sampling, scaling, sections, speedups, training
from genprop_core import attach
from trainer import long_tables

ROOT = Path(__file__).resolve().parent.parent
FACTS = {"date": "2026-01-02", "machine": "a machine", "threads": 1, "clock": "processor time", "python": "3.11",
         "torch": "2.9", "diffusers": "0.42", "rounds": 5}  # fmt: skip


def test_the_exponent_of_a_power_law_is_found():
    assert scaling.fit({x: 3 * x**1.5 for x in (2, 5, 11, 40)}) == pytest.approx(1.5)
    assert scaling.fit({8: 2.0, 16: 4.0}) == pytest.approx(1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not begin with its parent's peak")
def test_the_peak_of_a_process_is_not_its_parents():
    large = torch.ones(2**29)  # 2 GiB
    command = [sys.executable, "-c", "from benchmarks.common import peak_memory; print(peak_memory())"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert 2**25 < int(done.stdout) < large.numel() * 4 < common.peak_memory()


def test_flops_grow_by_the_step_and_attention_counts():
    weight = torch.zeros(8, 8)

    def run(steps):
        for _ in range(steps):
            weight @ weight
        torch.nn.functional.scaled_dot_product_attention(*[torch.zeros(1, 1, 4, 8)] * 3)

    product, attention = 2 * 8**3, 2 * 2 * 4 * 4 * 8
    assert common.flops_of_steps(run, 10) == 10 * product + attention


class Parts:
    """A model of two parts, one of which calls the other; the clock stands still elsewhere."""

    def __init__(self):
        self.time = 0.0

    def inner(self):
        self.time += 2

    def outer(self):
        self.time += 1
        self.inner()
        self.time += 3


def test_the_stopwatch_gives_each_part_its_own_time():
    parts = Parts()
    watch = profile.Stopwatch(lambda: parts.time)
    watch.watch(parts, "inner", "inner")
    watch.watch(parts, "outer", "outer")
    watch.enter("rest")
    parts.outer()
    parts.time += 10
    watch.leave()
    watch.stop()
    assert dict(watch.seconds) == {"rest": 10, "outer": 4, "inner": 2}
    assert set(vars(parts)) == {"time"}, "nothing stays watched"


def test_short_ways_are_left_out_and_come_back():
    before = attach.one_token_attention
    with speedups.without("one_token_attention"):
        assert attach.one_token_attention is not before
        with attach.one_token_attention(None, None):
            pass
    assert attach.one_token_attention is before


def test_the_long_way_leaves_no_short_way_anywhere():
    from genprop_core import pipeline  # noqa: F401  it imports whatever a run needs

    core = {name: module for name, module in sys.modules.items() if name.startswith("genprop_core.")}
    for name, (owners, _) in speedups.SHORT_WAYS.items():
        taken = {m.__name__ for m in core.values() if hasattr(m, name) and m.__name__ != f"genprop_core.{_home(name)}"}
        assert taken == {owner.__name__ for owner in owners}, name


def _home(name):
    """The module that defines a short way and does not take it itself."""
    return {"one_token_attention": "one_token", "flat_temporal_convolutions": "temporal_conv",
            "feed_forward_in_parts": "feed_forward"}.get(name)  # fmt: skip


def test_sampling_measures_every_loop_and_agrees_with_diffusers(tmp_path):
    assert sampling.main(["--quick", "--json", str(tmp_path / "s.json")]) == 0
    report = json.loads((tmp_path / "s.json").read_text())
    assert set(report["ratios"]) == set(report["predicted"]) == set(sampling.RATIOS)
    assert report["difference_from_diffusers"] < 1e-3
    predicted = report["predicted"]
    assert 1 < predicted["static_over_plain"] < predicted["fused_over_static"] * 1.2
    assert predicted["per_step_over_static"] > 2 and predicted["plain_over_diffusers"] < 1
    assert set(report["seconds"]) == {"diffusers", "plain", "static", "fused", "per_step", "encode", "decode"}


def test_a_training_step_keeps_less_when_checkpointed():
    from genprop_core.pipeline import GenProp

    model = GenProp.from_files("mini")
    model.base.unet.requires_grad_(False)
    kept = {on: training.Step(model, checkpointing=on).kept() for on in (False, True)}
    assert 0 < 2 * kept[True] < kept[False]


def write(folder, name, **report):
    (folder / "results").mkdir(exist_ok=True, parents=True)
    (folder / "results" / f"{name}.json").write_text(json.dumps(FACTS | report))


def test_the_page_is_made_from_what_there_is(tmp_path, capsys):
    write(tmp_path, "sampling", steps=25, seconds={"plain": 2.0, "static": 2.0, "per_step": 4.0, "encode": 0.3},
          tera_flops={"plain": 1.0, "static": 1.0, "per_step": 4.0}, difference_from_diffusers=1e-6,
          ratios={"static_over_plain": 1.051}, predicted={"static_over_plain": 1.04})  # fmt: skip
    write(tmp_path, "scaling", steps=2, window=8, seconds_by={"frames": {8: 1.0, 20: 2.0}, "pixels": {64: 1.0, 256: 5}},
          peak_mib_by={"frames": {8: 900.0, 20: 910.0}},
          ratios={"exponent_frames": 1.01, "exponent_pixels": 1.16})  # fmt: skip
    assert results.main(["--docs", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert "| static SCE / plain SVD | 1.051 | 1.040 |" in text and "power of 1.01" in text
    assert "runs at 3.0 times as many FLOPs per second" in text  # 3 TFLOP in 2 s against 1 in 2 s
    assert "a machine, one thread, processor time" in text and "2026-01-02" in text
    assert "Not measured yet: `python -m benchmarks.training`" in text
    for name in ("sampling.png", "scaling.png"):
        assert (tmp_path / "results" / name).read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()


def test_a_footing_says_what_the_rounds_are():
    assert "benchmarks.training`: median of 5 interleaved rounds; a machine" in sections.footing("training", FACTS)
    assert "benchmarks.training`: one interleaved round;" in sections.footing("training", FACTS | {"rounds": 1})
    assert "benchmarks.profile`: mean of 5 runs; a machine" in sections.footing("profile", FACTS)
    assert "benchmarks.profile`: one run;" in sections.footing("profile", FACTS | {"rounds": 1})


def test_scores_say_by_which_command_where_and_when():
    settings = {"clips": 64, "workers": 2, "steps": 10, "json": "x.json", "cache": "/somewhere"}
    assert sections.scores_footing({"settings": settings}) == (
        "`python -m trainer.evaluate --clips 64 --workers 2 --steps 10 --json docs/mini.json`; where and when was not "
        "kept.")  # fmt: skip
    took = {"settings": settings, "wall_seconds": 600.0, "wall_clips": 64, "workers": 2}
    text = sections.scores_footing(FACTS | took)
    assert "docs/mini.json`: 10 minutes for 64 clips by 2 processes; a machine, one thread" in text
    assert "2026-01-02" in text


def scored(outside, inside):
    return {"psnr_outside": outside, "psnr_inside": inside, "mask_iou": 0.846}


def test_the_readme_quotes_what_there_is_and_says_what_was_a_quick_run(tmp_path, capsys):
    evaluation = {"clips": 64, "result": scored(28.32, 25.92), "floors": {"plain_svd": scored(20.66, 21.75)}}
    reports = {"sampling": {"quick": True, "ratios": {"static_over_plain": 1.049, "static_over_per_step": 0.335}},
               "training": {"ratios": {"cached_over_uncached": 3.37, "memory_cached_over_checkpointed": 9.7}}}
    lines = sections.headlines(reports, evaluation).splitlines()
    assert lines[0] == ("- The mini on 64 held-out clips: PSNR 28.3 dB outside the edit and 25.9 dB inside it "
                        "(plain SVD 20.7 and 21.8), mask IoU 0.85.")  # fmt: skip
    assert "takes 1.05 of plain SVD's time" in lines[1] and "a quick run" in lines[1] and len(lines) == 3
    assert "3.4 times as many steps" in lines[2] and "quick" not in lines[2]

    docs, readme = tmp_path / "docs", tmp_path / "README.md"
    write(docs, "training", **reports["training"], seconds={"cached": 1.0}, steps_per_second={"cached": 1.0},
          activations_mib={"cached": 9.0})  # fmt: skip
    readme.write_text(f"above\n{long_tables.FIRST}\nold\n{long_tables.LAST}\nbelow\n")
    assert results.main(["--docs", str(docs), "--readme", str(readme)]) == 0
    assert readme.read_text().splitlines() == ["above", long_tables.FIRST, lines[2], long_tables.LAST, "below"]
    readme.write_text("nothing")
    assert results.main(["--docs", str(docs), "--readme", str(readme)]) == 2
    assert "error: Expected" in capsys.readouterr().err
    text = (results.ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(long_tables.FIRST) == text.count(long_tables.LAST) == 1


def test_a_benchmark_that_fails_is_named_and_keeps_its_numbers(tmp_path, monkeypatch, capsys):
    write(tmp_path, "profile", steps=2, shares={"UNet": 0.9, "rest": 0.1}, operators={"conv": 0.5},
          ratios={"outside_the_models": 0.1})  # fmt: skip
    monkeypatch.setattr(results.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 1}))
    monkeypatch.setattr(plots, "draw", lambda *a: None)
    assert results.main(["--docs", str(tmp_path), "--run", "--only", "profile"]) == 1
    assert "failed: profile" in capsys.readouterr().err
    assert "| UNet | 90.0% |" in (tmp_path / "results.md").read_text()
