"""Runs the sample workflow through a real ComfyUI server, which it starts and stops. Called by demo.py --comfyui.

Needs a Python with ComfyUI's requirements and ours; COMFYUI_PATH names the checkout.
"""
import argparse
import json
import random
import time
from pathlib import Path

from comfyui_server import ROOT, Server, failure, install_pack, saved_files, to_prompt
from environment import find_comfyui
from processes import SetupError, main, say, status

WORKFLOW = ROOT / "workflows" / "object_removal_mini.json"
SAMPLER = "GenPropSampler"


def arguments_of(arguments):
    parser = argparse.ArgumentParser(prog="python scripts/demo.py --comfyui", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "comfyui-demo",
                        help="folder for the server's files and the result")  # fmt: skip
    parser.add_argument("--seed", type=int, help="seed of the sampling; another one every time by default")
    parser.add_argument("--steps", type=int, help="sampling steps; the workflow's by default")
    return parser.parse_args(arguments)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def body(arguments):
    settings = arguments_of(arguments)
    checkout = find_comfyui()
    if checkout is None:
        raise SetupError("Expected a ComfyUI checkout, but there is none. Set COMFYUI_PATH to yours.")
    base = settings.out.absolute()
    base.mkdir(parents=True, exist_ok=True)
    install_pack(base)
    say(f"Starting ComfyUI from {checkout} ...")
    with Server(checkout, base, *([] if has_gpu() else ["--cpu"])) as server:
        prompt = to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.get("/object_info"))
        node = next(n for n in prompt.values() if n["class_type"] == SAMPLER)
        node["inputs"]["seed"] = random.randrange(2**32) if settings.seed is None else settings.seed
        node["inputs"]["steps"] = settings.steps or node["inputs"]["steps"]
        say(f"Running {WORKFLOW.name} with seed {node['inputs']['seed']} ...")
        start = time.monotonic()
        entry = server.wait(server.queue(prompt), 1800, lambda seconds: status(f"{seconds:.0f} s"))
        status("")
        if message := failure(entry):
            raise SetupError(f"The workflow failed: {' '.join(message.split())}")
        say(f"Done in {time.monotonic() - start:.0f} s.")
        for path in saved_files(entry, base):
            say(f"Result: {path}")
    return 0


if __name__ == "__main__":
    main(body)
