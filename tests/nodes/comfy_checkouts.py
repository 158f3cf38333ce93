"""Which ComfyUI checkouts the node tests run on, and with which Python."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"


def checkouts() -> list[Path]:
    """The checkout that the tests were given, and its siblings named ComfyUI-*: other versions to be tested too."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import environment
    finally:
        sys.path.remove(str(SCRIPTS))
    first = environment.find_comfyui()
    if first is None:
        return []
    siblings = sorted(p for p in first.parent.glob("ComfyUI-*") if p != first and environment.is_comfyui(p))
    return [first, *siblings]


def server_module():
    """scripts/comfyui_server.py, which is no part of a package."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import comfyui_server
    finally:
        sys.path.remove(str(SCRIPTS))
    return comfyui_server


def python_of(checkout) -> str:
    """The Python for a server of this checkout: of the folder NAME.venv beside it, where there is one, else ours.

    Skips the test when that Python has another editor than the checkout's requirements name: it would not start.
    """
    own = checkout.parent / f"{checkout.name}.venv" / "bin" / "python"
    python = str(own) if own.is_file() else sys.executable
    wanted = (checkout / "requirements.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^(comfyui-[\w-]+)==(\S+)", wanted, re.MULTILINE):
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() != version:
            pytest.skip(f"{checkout.name} wants {name} {version}, {python} has {done.stdout.strip() or 'none'}. "
                        f"Install its requirements in {own.parent.parent}.")  # fmt: skip
    return python
