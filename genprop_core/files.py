"""Safetensors and JSON on disk: written under a temporary name, then renamed, so that a file is whole or absent."""

import json
import os
import uuid
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from .errors import GenPropError


@contextmanager
def atomic(path):
    """Yields a temporary path beside `path` that becomes `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(what: str, path, remedy: str):
    """Within, an OSError (a full disk, say) is a GenPropError: `what` cannot be written to `path`, and the remedy."""
    try:
        yield
    except OSError as error:
        raise GenPropError(f"{what} cannot be written to {path} ({error.strerror or error}). {remedy}") from None


def write_json(path, value):
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save_tensors(path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]):
    """Writes a safetensors file. Tensors are moved to the CPU; metadata values are strings."""
    tensors = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}
    with atomic(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as any new file's; safetensors makes its own readable by its owner alone
        try:
            safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from None
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())


def open_tensors(path):
    """Opens a safetensors file for reading tensor by tensor (memory-mapped).

    Raises GenPropError when the file is missing, truncated, or not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise GenPropError(f"Expected a .safetensors file at {path}, but there is none. Check the path.")
    try:
        return safetensors.safe_open(path, framework="pt", device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise GenPropError(
            f"Expected a whole .safetensors file, but {path} cannot be read as one ({error}). "
            "It may be truncated or of another format; download or export it again."
        ) from None


def load_tensors(path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file. They are copies: mapped ones would keep the file open, so
    that Windows could not write it again, and would change with it."""
    with open_tensors(path) as file:
        return {k: file.get_tensor(k).clone() for k in file.keys()}, file.metadata() or {}
