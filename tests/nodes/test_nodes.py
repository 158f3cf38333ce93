"""Runs the checks against every ComfyUI checkout found, each in a process of its own."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.append(str(HERE))
import random_mini  # noqa: E402
from comfy_checkouts import checkouts  # noqa: E402

pytestmark = pytest.mark.comfyui
FILES = sorted(HERE.glob("comfy_*_checks.py"))
CHECKS = [n for f in FILES for n in re.findall(r"^def (check_\w+)", f.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the mini's files: the trained ones where they ship, random ones of the same shape elsewhere."""
    from tiny import tiny_unet

    from genprop_core.adapters import GenPropAdapters
    from genprop_core.checkpoint import Fingerprint, save_adapters
    from trainer.mini.shape import new_unet

    folder = tmp_path_factory.mktemp("mini")
    random_mini.write_files(folder)
    source, keyframe = random_mini.inputs()
    random_mini.save_inputs(folder / "inputs.safetensors", source=source, keyframe=keyframe)
    base = random_mini.base_unet(folder)
    save_adapters(folder / "fused.safetensors", random_mini.random_adapters(base, sce="fused"),
                  Fingerprint.of_unet(base), {})  # fmt: skip
    for name, unet in (("other_width", tiny_unet()), ("other_weights", new_unet(5))):
        save_adapters(folder / f"{name}.safetensors", GenPropAdapters.from_unet(unet), Fingerprint.of_unet(unet), {})
    return folder


@pytest.fixture(scope="module")
def outcomes(files, tmp_path_factory):
    """checkout -> {check: None or traceback}, made when first asked for."""
    made = {}

    def of(checkout):
        if checkout not in made:
            results = tmp_path_factory.mktemp("results") / "results.json"
            command = [sys.executable, HERE / "comfy_worker.py", checkout, ROOT, files, results]
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=results.parent,
                                  env=environment, check=False)  # fmt: skip
            assert results.exists(), done.stdout[-2000:] + done.stderr[-4000:]
            made[checkout] = json.loads(results.read_text(encoding="utf-8"))
        return made[checkout]

    return of


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("checkout", checkouts(), ids=lambda path: path.name)
def test_in_comfyui(checkout, check, outcomes):
    failure = outcomes(checkout)[check]
    assert failure is None, failure
