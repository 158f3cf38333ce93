"""How far a clip is: sampling steps done and to come, over all its windows, then the frames to finish."""


class Counter:
    """progress(done, total) over all windows of a clip, in sampling steps; the total is a plan and may shrink.

    ahead: windows of the runs that are to come.
    """

    def __init__(self, progress, passes: int):
        self.progress, self.passes, self.ahead, self.left, self.done = progress, passes, 0, 0, 0
        self.last = None

    def window(self, left: int) -> None:
        """A window begins, and with it there are `left` in this run."""
        self.left = left

    def step(self):
        """The callback of one pass over one window."""
        done, self.done = self.done, self.done + 1
        if self.progress is None:
            return None
        total = (done // self.passes + self.left + self.ahead) * self.passes
        return lambda s, n: self._say(done * n + s, total * n)

    def again(self) -> None:
        """Says once more how far it is, for what is done between two windows: who listens may stop that too."""
        if self.progress is not None:
            self.progress(*(self.last or (0, (self.left + self.ahead) * self.passes)))

    def _say(self, done: int, total: int) -> None:
        self.last = done, total
        self.progress(done, total)


class Halves:
    """progress(done, total) of a clip that is made twice, of which the second time may turn out to be needless."""

    def __init__(self, progress):
        self.progress, self.total = progress or (lambda done, total: None), 0

    def first(self, done: int, total: int) -> None:
        self.total = total
        self.progress(done, 2 * total)

    def second(self, done: int, total: int) -> None:
        self.progress(self.total + done, self.total + total)

    def leave_out_second(self) -> None:
        """Once more where the first ended, now as the whole."""
        if self.total:
            self.progress(self.total, self.total)


class Steps:
    """Called before every one of `total` steps, `end` after the last: progress(done, total) from 0 to the total."""

    def __init__(self, progress, total: int):
        self.progress, self.total, self.done = progress or (lambda done, total: None), total, 0

    def __call__(self) -> None:
        self.progress(self.done, self.total)
        self.done += 1

    def end(self) -> None:
        self.progress(self.total, self.total)
