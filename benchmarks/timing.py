"""Ratios that hold on a noisy machine: variants run in turn, medians over the rounds, ratios round by round."""

import statistics
import time


def interleave(variants: dict, rounds: int, clock=time.perf_counter) -> dict[str, list[float]]:
    """Seconds of every variant (a function without arguments) in every round, after one round that is not counted.

    clock: `time.process_time` counts the processor's time instead, which other programs do not disturb.
    """
    seconds = {name: [] for name in variants}
    for counted in range(-1, rounds):
        for name, function in variants.items():
            start = clock()
            function()
            if counted >= 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds, above: str, below: str) -> float:
    """Median over the rounds of above / below."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below]))
