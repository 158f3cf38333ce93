"""A tiny SVD in both layouts."""

import pytest
from svd_checkpoint import write_checkpoint

from genprop_core.convert import convert


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
    """(official file, the diffusers folder converted from it); read-only for all tests of this module."""
    folder = tmp_path_factory.mktemp("svd")
    write_checkpoint(folder / "base.safetensors")
    convert(folder / "base.safetensors", folder / "base")
    return folder / "base.safetensors", folder / "base"


@pytest.fixture
def copy(svd, tmp_path):
    """The diffusers folder as links, so that a test can take files away."""
    for file in svd[1].rglob("*.*"):
        target = tmp_path / "copy" / file.relative_to(svd[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    return tmp_path / "copy"
