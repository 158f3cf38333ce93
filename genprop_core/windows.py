"""Which frames each window of a clip covers, and which runs from which keyframe make a shot."""

from dataclasses import dataclass

from .errors import GenPropError


def default_overlap(window: int) -> int:
    """Frames that neighbouring windows share where the user does not say: a quarter of the window."""
    return max(1, window // 4)


def check_window(window: int, overlap: int) -> None:
    """Raises GenPropError for a window or an overlap that cannot cover a clip."""
    if window < 2:
        raise GenPropError(f"A window needs at least 2 frames, got {window}. Choose a longer one.")
    if not 1 <= overlap < window:
        raise GenPropError(
            f"Expected an overlap from 1 to {window - 1} frames for a window of {window}, got {overlap}. "
            "Windows continue from a frame they share."
        )


def plan_windows(num_frames: int, window: int, overlap: int = 1) -> list[tuple[int, int, int]]:
    """[(start, stop, first_new)]: windows of at most `window` frames that cover 0..num_frames in order.

    Each window after the first shares `overlap` frames with the one before and adds frames from `first_new`. The last
    window is moved back to be full, so that the base sees the number of frames it was trained on. An engine that
    continues from a later frame of the overlap needs this many windows at most.
    """
    check_window(window, overlap)
    plan, made = [(0, min(window, num_frames), 0)], min(window, num_frames)
    while made < num_frames:
        stop = min(made - overlap + window, num_frames)
        plan.append((stop - window, stop, made))
        made = stop
    return plan


@dataclass(frozen=True)
class Run:
    """Propagation from one keyframe in one direction: `order` lists frames from the keyframe on, to the shot's end.

    The first `need` of them are wanted; the rest may be used to fill up a window. `between`: they lie between two
    keyframes, and are made from both. `blend`: they have been made from the other side already, and are to be blended
    with what is there.
    """

    order: tuple[int, ...]
    need: int
    between: bool = False
    blend: bool = False


def plan_runs(start: int, stop: int, keyframes) -> list[Run]:
    """The runs that make the shot start..stop (stop not in it) from the keyframes (frame indices) within it.

    Backward from the first keyframe, forward from the last; between two, forward from one and backward from the other.
    """
    keys, runs = sorted(keyframes), []
    if not keys:
        return runs

    def forward(key, end):
        return tuple(range(key, stop)), end - key + 1

    def backward(key, end):
        return tuple(range(key, start - 1, -1)), key - end + 1

    if keys[0] > start:
        runs.append(Run(*backward(keys[0], start)))
    for one, other in zip(keys, keys[1:]):
        runs.append(Run(*forward(one, other), between=True))
        runs.append(Run(*backward(other, one), between=True, blend=True))
    if keys[-1] < stop - 1:
        runs.append(Run(*forward(keys[-1], stop - 1)))
    if stop - start == 1:
        runs.append(Run((start, start), 1))  # the base needs two frames
    return runs
