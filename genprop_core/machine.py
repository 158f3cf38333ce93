"""Where and when numbers were made: the machine, the versions and the date, for every report."""

import datetime
import platform
from pathlib import Path

import torch


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
             ] if info.is_file() else []  # fmt: skip
    return names[0] if names else platform.processor() or platform.machine()


def facts() -> dict:
    """{"date", "machine", "threads", "python", "torch", "diffusers"}; threads: of this process."""
    import diffusers

    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {platform.system()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
