"""What demo.py and test.py need of the operating system: child processes, a lock, and errors as one line."""
import errno
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

WINDOWS = os.name == "nt"


class SetupError(Exception):
    """Something the user can mend. The message is one line: what was expected, what came, what to do."""


def say(line):
    print(line, flush=True)


def status(line):
    """Shows a line in place of the last one, on a terminal only; an empty one wipes it."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 8
        sys.stdout.write("\r" + " " * (width + 6) + "\r" + ("      " + " ".join(line.split())[:width] if line else ""))
        sys.stdout.flush()


def child_environment(**more):
    """The environment for what runs in a virtual environment: nothing of another Python, and UTF-8 throughout."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "PYTHONUTF8": "1", "PIP_USER": "0", **{key: str(value) for key, value in more.items()}}


def run(command, cwd=None, **more):
    """Runs a command on our own terminal and returns its exit code; `more` are environment variables.

    subprocess and not exec, which on Windows returns at once. After Ctrl-C, which reaches the command too, it has ten
    seconds to end in its own way.
    """
    with subprocess.Popen([str(part) for part in command], cwd=cwd, env=child_environment(**more)) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                return process.wait(10)
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                process.kill()
                return 130


@contextmanager
def locked(path):
    """Holds `path` locked, waiting for its turn. The system frees the lock of a process that died: none goes stale."""
    with open(path, "a+b") as file:
        waiting = False
        while not _try_lock(file):
            if not waiting:
                say(f"Another run holds {path}; waiting for it ...")
            waiting = True
            time.sleep(0.3)
        yield file


if WINDOWS:
    import msvcrt

    def _try_lock(file):
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def main(body):
    """Runs a script's `body(arguments)` and exits with its code. What the user can mend is one line, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where another program has put a stream of its own
            stream.reconfigure(errors="replace")
    try:
        sys.exit(body(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        say("Stopped. Run this again to go on.")
        sys.exit(130)
    except OSError as error:
        full = error.errno == errno.ENOSPC or getattr(error, "winerror", None) == 112
        remedy = "The disk is full: free some space" if full else "Check that the folder can be written to"
        sys.exit(f"Error: {error}. {remedy}, then run this again.")
