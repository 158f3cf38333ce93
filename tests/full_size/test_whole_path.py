"""From files to frames at Stable Video Diffusion's full width, headless and in ComfyUI, and a training step.

Each runs in a process of its own, so that its peak memory is its own. Random weights: what is tested is that both
routes compute the same, not a picture.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from full_size_worker import FRAMES, SIZE
from safetensors.torch import load_file

from genprop_core.video_io import read_video, write_image, write_video

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests" / "nodes"))
import random_mini  # noqa: E402

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of anonymous memory"),
]
GIB = 2**30
SCALING = 0.18215


def start(script, *arguments) -> dict:
    """The JSON that a script prints last, run where ComfyUI's modules and ours never meet."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(script), *[str(a) for a in arguments]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


def told(report) -> str:
    laps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["seconds"].items())
    return f"{laps}; peak {report['peak'] / GIB:.1f} GiB of anonymous memory"


def relative(ours, theirs):
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where inputs, adapters and results are; 0.5 GB, removed at the end."""
    made = tmp_path_factory.mktemp("whole_path")
    source, keyframe = random_mini.inputs(FRAMES, SIZE)
    random_mini.save_inputs(made / "inputs.safetensors", source=source, keyframe=keyframe)
    yield made
    for file in made.glob("*.safetensors"):
        file.unlink()


@pytest.fixture(scope="module")
def headless(svd_file, folder, say):
    report = start(HERE / "full_size_worker.py", "headless", svd_file, folder / "inputs.safetensors", folder)
    say(f"headless, {FRAMES} frames at {SIZE}x{SIZE}, fp32: {told(report)}")
    return report, {name: load_file(folder / f"{name}.safetensors") for name in ("plain", "fresh", "random")}


def test_headless(headless):
    report, made = headless
    assert report["peak"] < 20 * GIB
    for name, out in made.items():
        assert out["frames"].shape == (FRAMES, 3, SIZE, SIZE) and out["latents"].shape[-1] == SIZE // 8, name
        assert all(v.isfinite().all() and v.std() > 1e-4 for v in out.values()), name
    assert torch.equal(made["fresh"]["frames"], made["plain"]["frames"])
    assert relative(made["random"]["latents"], made["plain"]["latents"]) > 1e-2


@pytest.mark.comfyui
def test_comfyui(headless, svd_file, folder, pytestconfig, say):
    script, checkout = ROOT / "tests" / "nodes" / "comfy_full_size.py", pytestconfig.comfyui_checkout
    report = start(script, checkout, ROOT, svd_file, folder / "inputs.safetensors", folder)
    say(f"ComfyUI, {FRAMES} frames at {SIZE}x{SIZE}, fp32: {told(report)}")
    assert report["peak"] < 20 * GIB
    made = load_file(folder / "comfyui.safetensors")
    assert torch.equal(made["before"], made["with"]) and torch.equal(made["before"], made["after"])
    for name in ("fresh", "random"):
        ours = headless[1][name]
        errors = {
            "latents": relative(made[name] * SCALING, ours["latents"]),
            "mask": relative(made[f"{name}_mask"], ours["mask"]),
            "frames": relative(made[f"{name}_frames"], ours["frames"]),
        }
        say(f"{name} adapters, both routes: relative errors {', '.join(f'{k} {v:.1e}' for k, v in errors.items())}")
        assert max(errors.values()) < 1e-3


def test_command_line_in_half_precision(headless, svd, folder, tmp_path, say):
    """On the diffusers folder, with adapters that were made on the single file.

    In bf16: CPUs have no fast convolutions in fp16, and one UNet pass at this width takes many minutes.
    """
    dtype = "bf16"
    given = load_file(folder / "inputs.safetensors")
    source, keyframe = ((v * 255).round().to(torch.uint8).movedim(-3, -1) for v in (given["source"], given["keyframe"]))
    write_video(tmp_path / "source.mp4", source, 8)
    write_image(tmp_path / "keyframe.png", keyframe)
    settings = {"source": tmp_path / "source.mp4", "keyframe": tmp_path / "keyframe.png", "out": tmp_path / "out",
                "base": svd[1], "adapters": folder / "random_adapters.safetensors", "dtype": dtype, "device": "cpu",
                "steps": 2, "width": SIZE, "height": SIZE, "window": FRAMES, "decode-chunk": 2}  # fmt: skip
    arguments = [str(a) for name, value in settings.items() for a in (f"--{name}", value)]
    report = start(HERE / "full_size_worker.py", "command", "propagate", *arguments, "--offload")
    say(f"command line on the folder, {dtype}, --offload: {told(report)}")
    assert report["peak"] < 10 * GIB
    frames = read_video(tmp_path / "out" / "result.mp4").frames
    assert len(frames) == FRAMES and frames.float().std() > 1


def test_training_step(svd_file, say):
    report = start(HERE / "full_size_worker.py", "train", svd_file)
    first, second = report["steps"]
    say(
        f"training, {FRAMES} frames at 64x64, fp32, gradient checkpointing, {report['parameters'] / 1e6:.0f} M "
        f"parameters: loading {report['loading']:.0f} s, steps {first['seconds']:.0f} and {second['seconds']:.0f} s; "
        f"peak {report['peak'] / GIB:.1f} GiB of anonymous memory"
    )
    assert report["peak"] < 22 * GIB
    for step in report["steps"]:
        assert step["trainable"] > 200 and step["absent"] == step["not_finite"] == step["in_base"] == []
        assert all(abs(v) < 1e6 for v in step["loss"].values())
    assert first["convs_at_zero"] == 0  # counted after the first optimiser step
    assert second["zero"] == []
