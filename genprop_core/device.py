"""Which device a command runs on: the one that was given, or the best that this machine has."""

import torch


def accelerator() -> torch.device | None:
    """The kind of this machine's accelerator where it has one that works."""
    if hasattr(torch, "accelerator"):
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    working = (kind for kind in (torch.cuda, torch.backends.mps) if kind.is_available())  # for a torch before 2.6
    return next((torch.device(kind.__name__.rpartition(".")[2]) for kind in working), None)


def own_accelerator(number: int) -> torch.device | None:
    """The accelerator of a process by its number on this machine, from 0; processes in excess share them."""
    found = accelerator()
    if found is None:
        return None
    counting = getattr(torch, "accelerator", None) or getattr(torch, found.type)
    return torch.device(found.type, number % counting.device_count())


def chosen_device(given: str | None, own: torch.device | None = None) -> str:
    """The name of the device to run on. given: the user's, or None for the best; own: this process's, where several
    share the machine, which is meant by its kind alone too: else all of them would take the first."""
    if own is not None and given in (None, own.type):
        return str(own)
    return given or str(accelerator() or "cpu")
