"""Which frames each window of a clip covers."""
from .errors import GenPropError


def plan_windows(num_frames: int, window: int) -> list[tuple[int, int, int]]:
    """[(start, stop, first_new)]: windows of at most `window` frames that cover 0..num_frames in order.

    Each window after the first starts on a frame that is made already (its keyframe) and adds frames from `first_new`.
    The last window is moved back to be full, so that the base sees the number of frames it was trained on.
    """
    if window < 2:
        raise GenPropError(f"A window needs at least 2 frames, got {window}. Choose a longer one.")
    plan, made = [(0, min(window, num_frames), 0)], min(window, num_frames)
    while made < num_frames:
        stop = min(made - 1 + window, num_frames)
        plan.append((stop - window, stop, made))
        made = stop
    return plan
