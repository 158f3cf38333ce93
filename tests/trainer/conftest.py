"""A tiny random base in the mini's format and four generated clips: the real trainer runs on them in seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_image_encoder, tiny_unet

from genprop_core.mini import save_mini
from trainer import arguments
from trainer.dataset import FOLDERS, resize
from trainer.make_mini_dataset import write_pair
from trainer.mini.clips import Clip, make_clip

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


@pytest.fixture(autouse=True, scope="session")
def on_the_cpu():
    """Bit for bit is promised for the CPU only, and one thread is enough for networks of this size."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ACCELERATE_USE_CPU", "true")
    patch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    patch.undo()


@pytest.fixture(autouse=True)
def a_fresh_accelerator():
    """Accelerate keeps its state for the whole process; a real run has a process of its own."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def save_base(path, seed=0):
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    save_mini(path, {"unet": tiny_unet(seed=seed), "vae": vae, "image_encoder": tiny_image_encoder(seed)}, {})
    return path


def small_clip(seed, frames=6) -> Clip:
    clip = make_clip(seed, frames)
    return Clip(*(resize(v, (SIZE, SIZE)) for v in (clip.source, clip.target, clip.mask)))


@pytest.fixture(scope="session")
def make_base():
    return save_base


@pytest.fixture(scope="session")
def base_file(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folders "train" (four clips, one of them as images) and "val" (two)."""
    from genprop_core.video_io import iter_video, write_image

    folder = tmp_path_factory.mktemp("data")
    for split, seeds in (("train", range(4)), ("val", range(10, 12))):
        for seed in seeds:
            write_pair(folder / split, f"clip{seed}", small_clip(seed))
    for sub in FOLDERS.values():  # the last one as PNG
        video = folder / "train" / sub / "clip3.mp4"
        for index, frame in enumerate(iter_video(video)):
            write_image(video.with_suffix("") / f"{index:03d}.png", frame)
        video.unlink()
    return folder


@pytest.fixture
def words(base_file, data, tmp_path):
    """words(**settings) -> a command line of a small run into tmp_path."""

    def make(**settings):
        values = {
            "train_data_dir": data / "train", "val_data_dir": data / "val", "output_dir": tmp_path / "out",
            "val_out_dir": tmp_path / "val", "base": base_file, "num_frames": 4, "resolution": SIZE, "num_workers": 0,
            "gradient_accumulation_steps": 1, "max_steps": 4, "lr": 1e-3, "warmup_steps": 2, "val_interval": 0,
            "num_inference_steps": 2, "tracker": "none",
        } | settings  # fmt: skip
        flags = [f"--{k}" for k, v in values.items() if v is True]
        return flags + [f"--{k}={v}" for k, v in values.items() if v is not True and v is not None]

    return make


@pytest.fixture
def train(words):
    """train(**settings) runs the trainer in this process, as if it were a new one."""
    from accelerate.state import AcceleratorState, GradientState

    from trainer.train import run

    def start(**settings):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        run(arguments.parse(words(**settings)))

    return start


@pytest.fixture(scope="session")
def launch():
    """launch(words, processes=1): the trainer as a command of its own; a Popen."""

    def start(words, processes=1):
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        return subprocess.Popen(
            [*command, str(ROOT / "trainer" / "train.py"), *words], cwd=ROOT.parent,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


@pytest.fixture
def nothing_cached(tmp_path, monkeypatch):
    """No model of this machine's; returns the folder that stands for Hugging Face's cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def no_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
