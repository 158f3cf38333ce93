"""Which ComfyUI checkouts the node tests run on."""
import sys
from pathlib import Path

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
