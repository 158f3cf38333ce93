"""What the full-size tests share: one checkpoint of Stable Video Diffusion's width, and times and memory said aloud."""
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from svd_checkpoint import FULL, write_checkpoint

from genprop_core.convert import convert

sys.path.append(str(Path(__file__).resolve().parent))  # for full_size_worker


@pytest.fixture(scope="session")
def say(pytestconfig):
    """Prints past pytest's capture."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def write(text):
        with capture.global_and_fixture_disabled():
            print(f"\n    {text}", flush=True)

    return write


@pytest.fixture(scope="session")
def timed(say):
    @contextmanager
    def block(what):
        start = time.monotonic()
        yield
        say(f"{what}: {time.monotonic() - start:.0f} s")

    return block


@pytest.fixture(scope="session")
def svd_file(tmp_path_factory, timed):
    """An official file in fp16 with the optional keys, 5 GB; removed at the end."""
    file = tmp_path_factory.mktemp("full_size") / "svd_xt.safetensors"
    try:
        with timed("writing the checkpoint"):
            write_checkpoint(file, FULL, torch.float16)
        yield file
    finally:
        file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def svd(svd_file, timed):
    """(the official file, the folder converted from it); the folder is removed after the tests of a module."""
    converted = svd_file.parent / "stable-video-diffusion-img2vid-xt"
    try:
        with timed("converting it to a diffusers folder"):
            convert(svd_file, converted)
        yield svd_file, converted
    finally:
        for path in sorted(converted.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        converted.rmdir()
