"""Ratios that hold on a noisy machine: variants run in turn, medians over the rounds, ratios round by round."""

import statistics
import time


def interleave(variants: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant (a function without arguments) in every round, after one round that is not counted."""
    seconds = {name: [] for name in variants}
    for counted in range(-1, rounds):
        for name, function in variants.items():
            start = time.perf_counter()
            function()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds, above: str, below: str) -> float:
    """Median over the rounds of above / below."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below]))
