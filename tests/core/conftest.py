"""A tiny SVD in both layouts, and links to files."""

import shutil
from pathlib import Path

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
    """A copy of the diffusers folder, so that a test can take files away."""
    return Path(shutil.copytree(svd[1], tmp_path / "copy"))


@pytest.fixture
def link():
    """link(path, target) makes a symbolic link to a file or folder; where none can be made the test is skipped: a
    Windows account may not, as it comes."""

    def make(path, target):
        try:
            path.symlink_to(target, target_is_directory=target.is_dir())
        except OSError as error:
            pytest.skip(f"no symbolic links here ({error})")

    return make
