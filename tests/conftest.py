"""What all tests share: the repository at the end of sys.path, and the ComfyUI checkout where there is one.

Files in tests/nodes import ComfyUI when they are collected, so without a checkout they are left out; single tests
elsewhere say so by the marker `comfyui`. Both are counted and announced at the end, so that nobody takes a run without
them for a whole one.
"""
import importlib
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NODE_TESTS = ROOT / "tests" / "nodes"

# At the end and nowhere else: our nodes/ would otherwise shadow ComfyUI's nodes.py. The second is for tests/tiny.py.
OURS = [str(ROOT), str(ROOT / "tests")]
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) not in OURS] + OURS


def _script(name):
    """A module of scripts/, which are no package because they are run by their paths."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def pytest_configure(config):
    environment = _script("environment")
    try:
        config.comfyui_checkout = environment.find_comfyui()
    except environment.SetupError as error:
        raise pytest.UsageError(str(error)) from None
    config.comfyui_skipped = []


def pytest_ignore_collect(collection_path, config):
    if config.comfyui_checkout is not None or NODE_TESTS not in collection_path.parents:
        return None
    if collection_path.match("test_*.py"):
        config.comfyui_skipped.append(collection_path.name)
    return True


def pytest_collection_modifyitems(config, items):
    if config.comfyui_checkout is None:
        for item in items:
            if item.get_closest_marker("comfyui"):
                item.add_marker(pytest.mark.skip(reason="no ComfyUI checkout found"))
                config.comfyui_skipped.append(item.name)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest-xdist): the first one tells
        session.config.workeroutput["comfyui_skipped"] = session.config.comfyui_skipped


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    found = getattr(node, "workeroutput", {}).get("comfyui_skipped", [])
    node.config.comfyui_skipped = sorted({*node.config.comfyui_skipped, *found})


def pytest_terminal_summary(terminalreporter, config):
    if config.comfyui_skipped:
        what = f"COMFYUI TESTS SKIPPED ({len(config.comfyui_skipped)} FILES AND TESTS)"
        terminalreporter.write_line(f"{what}: NO CHECKOUT FOUND. SET COMFYUI_PATH TO RUN THEM.", yellow=True)


@pytest.fixture(scope="session")
def scripts():
    """Imports a module of scripts/ by name."""
    return _script


@pytest.fixture(scope="session")
def comfyui(pytestconfig):
    """The ComfyUI checkout as a Path; the test is skipped where there is none."""
    if pytestconfig.comfyui_checkout is None:
        pytest.skip("no ComfyUI checkout found")
    return pytestconfig.comfyui_checkout
