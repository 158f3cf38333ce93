"""Runs the tests in their own virtual environment, which the first run makes. `--help` says more.

Further arguments go on to pytest; paths in them are relative to the repository. Without any, the tests are shared out
among two processes, file by file.
"""
import os
import sys

if sys.version_info < (3, 10):
    sys.exit("Error: Expected Python 3.10 to 3.13, this is " + sys.version.split()[0] + ". Get one at python.org.")

# a Python that runs isolated, like that of ComfyUI's portable edition, does not look beside the script
if os.path.dirname(os.path.abspath(__file__)) not in sys.path:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from environment import ROOT, find_comfyui, plain, prepare, with_comfyui
from processes import main, run, say

HELP = """usage: python scripts/test.py [--full-size] [arguments for pytest]

The first run makes a virtual environment (minutes; the sizes are printed), later ones start at once. Where a ComfyUI
checkout is found ($COMFYUI_PATH, around this repository in custom_nodes/, ~/comfy/ComfyUI) the nodes are tested in it.

  --full-size   run the tests at Stable Video Diffusion's full width instead: 12 GB of memory, 16 GB of disk, long
  for example   python scripts/test.py tests/core -k sampler -x"""


def body(arguments):
    if {"-h", "--help"} & set(arguments):
        say(HELP)
        return 0
    passed_on, threads = [argument for argument in arguments if argument != "--full-size"], {}
    if not arguments and (os.cpu_count() or 1) > 1:
        passed_on = ["-n", "2", "--dist", "loadfile"]
        threads = {"OMP_NUM_THREADS": (os.cpu_count() or 1) // 2}
    if len(passed_on) < len(arguments):
        passed_on = ["-m", "full_size", "-rP"] + passed_on  # -rP shows the times and memory that passing tests print
    checkout = find_comfyui()
    say("ComfyUI: {}".format(checkout or "no checkout found, so its tests are skipped"))
    python = prepare(*(with_comfyui(checkout, tests=True) if checkout else plain(tests=True)))
    # hundreds of processes import torch and diffusers: their code is compiled once, whatever Python is told elsewhere
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": python.parent.parent / "bytecode"}
    return run([python, "-m", "pytest"] + passed_on, ROOT, COMFYUI_PATH=checkout or "", **threads, **compiled)


if __name__ == "__main__":
    main(body)
