"""bfloat16 where this processor is faster with it; one without instructions for it is many times slower."""

import contextlib
import functools
import time

import torch
import torch.nn.functional as F


def _seconds(dtype: torch.dtype, repeats: int = 2) -> float:
    """The shortest time of a convolution and a product as the mini's UNet has them."""
    frames, kernel = torch.ones(8, 64, 16, 16, dtype=dtype), torch.ones(64, 64, 3, 3, dtype=dtype)
    rows, weight = torch.ones(1024, 64, dtype=dtype), torch.ones(64, 512, dtype=dtype)
    times = []
    for _ in range(repeats + 1):  # the first also sets things up
        start = time.perf_counter()
        F.conv2d(frames, kernel, padding=1)
        rows @ weight
        times.append(time.perf_counter() - start)
    return min(times[1:])


@functools.cache
def bfloat16_pays() -> bool:
    """Whether bfloat16 is faster than float32 here: measured once per process, within seconds."""
    with torch.no_grad():
        return _seconds(torch.bfloat16) < _seconds(torch.float32)


def autocast(device: torch.device):
    """The context in which the mini's stages run their networks. A GPU takes float32."""
    half = device.type == "cpu" and bfloat16_pays()
    return torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
