"""An out-of-memory error as one line that names the settings that help."""

import re
from collections.abc import Collection, Mapping
from contextlib import contextmanager

import torch

from .errors import GenPropError

# CUDA, ROCm, XPU and MPS say the first, the CPU's allocator the next two (Windows, Linux), cuBLAS and cuDNN the fourth,
# MPS the last, of one tensor that is too large
_WORDS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|Invalid buffer size", re.IGNORECASE
)
_KINDS = (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))  # torch has its own since 2.5
SETTINGS = {  # as the `propagate` command has them
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
    "training": ("checkpointing", "dtype", "batch", "frames", "size"),
    "validating": (),
}


class OutOfMemory(GenPropError):
    """problem: what ran out where, without advice. helps: keys of HELPS that lower the need; words: of those, what the
    command at hand calls them. One that has no word here is not named."""

    def __init__(self, problem: str, helps: tuple[str, ...], words: Mapping[str, str] = SETTINGS):
        super().__init__(problem, helps, words)  # all, so that it comes through from another process
        self.problem, self.helps, self.words = problem, helps, words

    def __str__(self):
        helps = [self.words[name] for name in self.helps if name in self.words]
        advice = f"Use {', or '.join(helps)}" if helps else "Use a device with more memory"
        return f"{self.problem} {advice}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, _KINDS) or (isinstance(error, RuntimeError) and bool(_WORDS.search(str(error))))


@contextmanager
def explained(doing: str, what: str, in_use: Collection[str] = (), words: Mapping[str, str] = SETTINGS):
    """Within, running out of memory raises OutOfMemory, of one line; every other error passes.

    doing: a key of HELPS. what: what needs the memory, for the message. in_use: keys of `words` that are set already
    or cannot help, and so are not named.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sentences = re.split(r"\n|\. ", str(error) or type(error).__name__)
        reason = next((s for s in sentences if _WORDS.search(s)), sentences[0]).strip(". ")
        helps = tuple(name for name in HELPS[doing] if name not in in_use)
        problem = f"Expected enough memory for {doing} {what}, but it ran out ({reason})."
        raise OutOfMemory(problem, helps, words) from None


@contextmanager
def in_words_of(command: Mapping[str, str]):
    """Within, OutOfMemory names the settings as this command has them, {key of SETTINGS: its option}, and no others."""
    try:
        yield
    except OutOfMemory as error:
        raise OutOfMemory(error.problem, error.helps, command) from None
