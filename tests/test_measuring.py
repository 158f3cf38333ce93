"""Every benchmark measured at the smallest size: its report has what the results page and the tables need."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import comfyui, long_clips, profile, results, scaling, speedups, training
from trainer.dataset import resize
from trainer.evaluation_clips import EvalClip
from trainer.mini.clips import Clip, make_clip

FRAMES, SIZE = 4, 64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Enough for networks of this size, and more would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_clip(seed=0) -> Clip:
    clip = make_clip(seed, FRAMES)
    return Clip(*(resize(v, (SIZE, SIZE)) for v in (clip.source, clip.target, clip.mask)))


class HeldOut:
    def __init__(self, count):
        pass

    def __getitem__(self, index):
        clip = small_clip(index)
        return EvalClip("a", clip.source, clip.target[0], clip.target, clip.mask, index)


def test_training_steps_are_compared(monkeypatch):
    monkeypatch.setattr(training, "make_clip", small_clip)
    report = training.measure(1)
    assert set(report["seconds"]) == set(report["activations_mib"]) == {"cached", "uncached", "checkpointed", "fused"}
    assert set(report["ratios"]) == {"cached_over_uncached", "checkpointed_over_cached", "static_over_fused_steps",
                                     "memory_cached_over_checkpointed"}  # fmt: skip
    assert report["ratios"]["memory_cached_over_checkpointed"] > 1.5 and "Training" in results.sections.training(report)


def test_growth_with_frames_and_pixels_is_fitted():
    report = scaling.measure((2, 4, 8), (32, 64), 1, memory=False)
    assert set(report["ratios"]) == {"exponent_frames", "exponent_pixels"}
    assert set(report["seconds_by"]["frames"]) == {2, 4, 8} and set(report["seconds_by"]["pixels"]) == {1024, 4096}
    assert all(v > 0 for points in report["seconds_by"].values() for v in points.values())


def test_scaling_can_be_imported_where_there_is_no_resource_module():
    code = "import sys; sys.modules['resource'] = None; import benchmarks.scaling"
    done = subprocess.run([sys.executable, "-c", code], cwd=results.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_parts_of_a_run_add_up(monkeypatch):
    monkeypatch.setattr(profile, "sample_clip", lambda: (small_clip().source, small_clip().target[0]))
    report = profile.measure(1, 1)
    shares = report["shares"]
    assert sum(shares.values()) == pytest.approx(1) and {"UNet", "SCE and injection layers", "CLIP"} <= shares.keys()
    assert set(report["ratios"]) == {"outside_the_models"} and 0 < report["ratios"]["outside_the_models"] < 1
    assert 0 < sum(report["operators"].values()) <= 1


def test_every_speed_up_is_held_against_the_long_way(monkeypatch):
    monkeypatch.setattr(speedups, "HeldOut", HeldOut)
    report = speedups.measure(1, 1, 2, 1)
    others = set(speedups.variants(2, 1)) - {"long_way"}
    assert set(report["ratios"]) == {f"{n}_over_long_way" for n in others}
    assert len(others) == 7 + speedups.bfloat16_pays(), "bfloat16 is measured where the machine multiplies it"
    assert set(report["psnr_change"]) == others | {"long_way"} and report["psnr_change"]["long_way"] == 0
    assert abs(report["psnr_change"]["short_ways"]) < 0.1, "exact ways"
    assert "Speed-ups" in results.sections.speedups(report)


def test_long_clips_are_compared_round_by_round(tmp_path, monkeypatch, capsys):
    pytest.importorskip("resource")
    row = long_clips.one(8, 1)
    assert row["frames"] == 8 and row["windows"] == 1 and row["peak"] > row["frames_bytes"] > 8 * 128 * 128 * 3

    def apart(frames, steps):  # the second round is on a busy machine
        busy = 1 + len(asked) // 3
        asked.append(frames)
        return {"windows": frames // 6, "seconds": frames * busy / 10, "peak": 2**30 + frames * 2**20,
                "frames_bytes": frames * 2**20}  # fmt: skip

    asked = []
    monkeypatch.setattr(long_clips, "apart", apart)
    assert long_clips.main(["--rounds", "2", "--json", str(tmp_path / "results" / "long_clips.json")]) == 0
    assert asked == [*long_clips.LENGTHS] * 2
    report = json.loads((tmp_path / "results" / "long_clips.json").read_text())
    assert report["ratios"] == {"seconds_per_frame_longest_over_middle": 1.0, "memory_middle_over_shortest": 1.0,
                                "memory_longest_over_shortest": 1.0}  # fmt: skip
    assert report["seconds"]["200 frames"] == 30 and report["machine"] and report["date"] and report["rounds"] == 2
    assert "time a frame, longest clip / middle one | 1.000" in results.markdown({"long_clips": report}, None)
    assert "## Long clips\n\nNot measured yet: `python -m benchmarks.long_clips`" in results.markdown({}, None)
    capsys.readouterr()


class FakeRoutes:
    """What `comfyui.Routes` has, without ComfyUI: GenProp takes two products a step where plain SVD takes one."""

    weight = torch.eye(8)

    def plain(self, steps):
        for _ in range(steps):
            made = self.weight @ self.weight
        return made

    def apply(self, steps):
        return self.plain(steps) + self.plain(steps)

    sampler = apply

    def encode(self):
        pass

    def decode(self, latents):
        assert torch.equal(latents, 2 * self.weight)


def test_comfyui_says_what_flops_predict_and_marks_a_quick_run(tmp_path, monkeypatch, capsys):
    def measure(checkout, steps, rounds):
        return {"comfyui": "0.1"} | comfyui.timed(FakeRoutes(), steps, rounds)

    monkeypatch.setattr(comfyui, "measure", measure)
    file = tmp_path / "results" / "comfyui.json"
    assert comfyui.main(["--checkout", str(tmp_path), "--quick", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["quick"] is True and report["steps"] == 2
    assert set(report["seconds"]) == {"plain", "apply", "sampler", "encode", "decode"}
    assert set(report["ratios"]) == set(report["predicted"]) == {"apply_over_plain", "sampler_over_plain"}
    assert report["predicted"]["apply_over_plain"] == 2 and "FLOPs predict 2.000" in capsys.readouterr().out
    text = results.markdown({"comfyui": report}, None)
    assert "Sampling in ComfyUI 0.1" in text and "FLOPs predict" in text and "A quick run" in text
    monkeypatch.setattr(FakeRoutes, "sampler", FakeRoutes.plain)
    with pytest.raises(SystemExit, match="both GenProp routes to agree"):
        comfyui.timed(FakeRoutes(), 2, 1)
