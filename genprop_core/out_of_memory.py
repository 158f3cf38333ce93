"""An out-of-memory error as one line that names the settings that help."""

import re
from collections.abc import Collection
from contextlib import contextmanager

import torch

from .errors import GenPropError

# CUDA, ROCm, XPU and MPS say the first, the CPU's allocator the next two (Windows, Linux), cuBLAS and cuDNN the fourth,
# MPS the last, of one tensor that is too large
_WORDS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|Invalid buffer size", re.IGNORECASE
)
_KINDS = (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))  # torch has its own since 2.5
SETTINGS = {
    "dtype": "--dtype bf16 or fp16",
    "offload": "--offload",
    "decode_chunk": "a smaller --decode-chunk",
    "vae": "--vae with a TAESD file",
    "window": "a smaller --window",
    "size": "a smaller --width and --height",
}
HELPS = {  # what is being done -> the settings that lower its need, the least harmful first
    "loading": ("dtype", "offload"),
    "encoding": ("dtype", "offload", "vae", "size"),
    "sampling": ("dtype", "offload", "window", "size"),
    "decoding": ("decode_chunk", "dtype", "offload", "vae", "size"),
}


class OutOfMemory(GenPropError):
    """problem: what ran out where, without the advice, which is that of the command line."""

    def __init__(self, problem: str, advice: str):
        super().__init__(problem, advice)  # both, so that it comes through from another process
        self.problem, self.advice = problem, advice

    def __str__(self):
        return f"{self.problem} {self.advice}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, _KINDS) or (isinstance(error, RuntimeError) and bool(_WORDS.search(str(error))))


@contextmanager
def explained(doing: str, what: str, in_use: Collection[str] = ()):
    """Within, running out of memory raises OutOfMemory, of one line; every other error passes.

    doing: a key of HELPS. what: what needs the memory, for the message. in_use: keys of SETTINGS that are set already
    or cannot help, and so are not named.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sentences = re.split(r"\n|\. ", str(error) or type(error).__name__)
        reason = next((s for s in sentences if _WORDS.search(s)), sentences[0]).strip(". ")
        helps = [SETTINGS[name] for name in HELPS[doing] if name not in in_use]
        advice = f"Use {', or '.join(helps)}" if helps else "Use a device with more memory"
        problem = f"Expected enough memory for {doing} {what}, but it ran out ({reason})."
        raise OutOfMemory(problem, f"{advice}.") from None
