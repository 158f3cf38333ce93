"""The virtual environments of demo.py and test.py: what belongs in them, and what is in them already.

`.venv` holds GenProp's own needs, `.venv-comfyui` those beside ComfyUI's, which want another torch: two folders, so
that going from one script to the other never undoes an install. What is in a folder stands in its stamp, written last:
a later run reads it, starts at once and needs no network. A folder without one is made anew. Standard library only.
"""
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from installing import PYTHON, NothingChanged, check_python, clear, make_venv, pip_install, venv_python
from processes import SetupError, locked, say

ROOT = Path(os.path.abspath(__file__)).parent.parent  # not resolved: a repo linked into custom_nodes/ is found there
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
STAMP, UNFINISHED, LOG = "genprop-stamp.json", "genprop-unfinished", "genprop-pip.log"
LINUX = sys.platform == "linux"
CUDA_BUILD, EARLIER_CUDA_BUILD = LINUX, LINUX and "x86_64" in PYTHON  # what the package index has of torch 2.13 and 2.9
CPU_INDEX = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Step:
    """One call of pip. `what` says, before it starts, what comes, how large it is and how long it takes."""

    name: str
    what: str
    packages: tuple = ()
    files: tuple = ()

    def arguments(self):
        files = [argument for file in self.files for argument in ("-r", str(file))]
        return [*self.packages, *files, "-c", str(CONSTRAINTS)]

    def fingerprint(self):
        """A hash of what decides what this step installs; where the files lie does not."""
        texts = [file.read_text(encoding="utf-8") for file in (*self.files, CONSTRAINTS)]
        return hashlib.sha256(json.dumps([self.packages, texts]).encode()).hexdigest()


def plain(tests=False):
    """(folder, steps) for everything that needs no ComfyUI."""
    pins = ("torch==2.13.0",)
    torch = Step("torch", f"torch 2.13.0, {_torch_size(CUDA_BUILD, '2.7 GB', '5 GB')}", pins)
    return ROOT / ".venv", (torch, *_own_steps(pins, tests))


def with_comfyui(checkout, tests=False):
    """(folder, steps) for what runs in the ComfyUI of `checkout`: its requirements come first, ours join them."""
    pins = ("torch==2.9.1", "torchvision==0.24.1")
    audio = (*pins, "torchaudio==2.9.*")
    listed = checkout / "requirements.txt"
    return ROOT / ".venv-comfyui", (
        Step("torch", f"torch 2.9.1 and torchvision 0.24.1, {_torch_size(EARLIER_CUDA_BUILD, '4.1 GB', '7 GB')}", pins),
        Step("torchaudio", "torchaudio 2.9, 2 MB, a few seconds", audio),
        Step("comfyui", f"ComfyUI's requirements ({listed}), 0.6 GB, 1 minute", audio, (listed,)),
        *_own_steps(audio, tests),
    )


def _torch_size(has_cuda, cuda, on_disk):
    if has_cuda:
        return f"up to {cuda} ({on_disk} on disk; 0.2 GB without CUDA: {CPU_INDEX}), 1 to 3 minutes"
    return "0.1 GB, 1 minute"


def _own_steps(pins, tests):
    yield Step("genprop", "diffusers, PyAV, OpenCV and the rest, 0.2 GB, 1 minute", pins, (ROOT / "requirements.txt",))
    if tests:
        yield Step("tests", "pytest and the test tools, 0.2 GB, 1 minute", pins, (ROOT / "requirements-dev.txt",))


def find_comfyui(environ=os.environ, home=None, root=ROOT):
    """The ComfyUI checkout: $COMFYUI_PATH, the one this pack is installed in, ~/comfy/ComfyUI, or None.

    Raises SetupError when COMFYUI_PATH names something else: going on with another checkout would mislead.
    """
    named = environ.get("COMFYUI_PATH", "")
    if named:
        checkout = Path(os.path.abspath(os.path.expanduser(named)))
        if not is_comfyui(checkout):
            raise SetupError(
                f"Expected a ComfyUI checkout (main.py, requirements.txt, comfy/) in COMFYUI_PATH, but {checkout} "
                "is none. Correct the variable, or unset it."
            )
        return checkout
    around = [root.parent.parent] if root.parent.name == "custom_nodes" else []
    candidates = [*around, Path(home or os.path.expanduser("~")) / "comfy" / "ComfyUI"]
    return next(filter(is_comfyui, candidates), None)


def is_comfyui(folder):
    names = ("main.py", "folder_paths.py", "requirements.txt", os.path.join("comfy", "model_management.py"))
    return all((folder / name).is_file() for name in names)


def read_stamp(folder):
    """What is installed in `folder` as {step name: fingerprint}; None if unknown, or for another Python."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return dict(stamp["steps"]) if stamp["python"] == PYTHON and venv_python(folder).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def missing(folder, steps):
    installed = read_stamp(folder) or {}
    return [step for step in steps if installed.get(step.name) != step.fingerprint()]


def prepare(folder, steps):
    """Makes or completes the virtual environment in `folder` where needed and returns its Python.

    Raises SetupError when that fails; the next run then makes the folder anew, unless nothing had been changed yet.
    """
    steps = tuple(steps)
    if missing(folder, steps):
        with locked(folder.with_name(folder.name + ".lock")) as lock:
            todo = missing(folder, steps)  # asked again: another run may have done it meanwhile
            if todo:
                _install(folder, todo, lock)
    return venv_python(folder)


def _install(folder, todo, lock):
    check_python()
    say(f"Preparing {folder} (this once: later runs start at once and need no network)")
    installed = read_stamp(folder)
    if installed is None:
        _refuse_foreign(folder)
        _refuse_own(folder)
        clear(folder)
        (folder / UNFINISHED).touch()
        make_venv(folder)
        installed = {}
    (folder / UNFINISHED).touch()
    (folder / STAMP).unlink(missing_ok=True)
    for number, step in enumerate(todo, 1):
        say(f"  {number} of {len(todo)}: {step.what} ...")
        started = time.monotonic()
        try:
            pip_install(venv_python(folder), step, folder / LOG, lock)
        except NothingChanged:
            _finish(folder, installed)  # what was there works as before
            raise
        say(f"    done in {time.monotonic() - started:.0f} s")
        installed[step.name] = step.fingerprint()
    _finish(folder, installed)


def _finish(folder, installed):
    """Notes what is installed, {step name: fingerprint}: the environment is whole."""
    temporary = folder / (STAMP + ".new")
    temporary.write_text(json.dumps({"python": PYTHON, "steps": installed}, indent=2), encoding="utf-8")
    os.replace(temporary, folder / STAMP)
    (folder / UNFINISHED).unlink()


def _refuse_own(folder):
    """Raises SetupError rather than remove the Python that runs this."""
    if Path(os.path.realpath(sys.prefix)) == Path(os.path.realpath(folder)):
        raise SetupError(
            f"{folder} was left half made and is to be made anew, but its own Python runs this. Type deactivate (or "
            "choose another Python in your editor), then run this again."
        )


def _refuse_foreign(folder):
    """Raises SetupError rather than empty a folder that somebody else made."""
    ours = (folder / STAMP).exists() or (folder / UNFINISHED).exists()
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if folder.is_symlink() or not (ours or empty):
        raise SetupError(f"{folder} is needed, but something else made it. Rename or delete it, then run this again.")
