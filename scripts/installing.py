"""Making a virtual environment and running pip in it, with what goes wrong told in one line and its remedy."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig

from processes import WINDOWS, SetupError, child_environment, say, status

VERSION = "{}.{}".format(*sys.version_info)
PYTHON = f"{sys.implementation.name} {VERSION} {sysconfig.get_platform()}"
NEWEST_TESTED = (3, 13)
REMEDIES = (  # what pip says, what it means, what to do; the first that fits
    (
        r"No space left|Errno 28\b|WinError 112|not enough space",
        "the disk is full",
        "Free some space, here and in the temporary folder (TMPDIR)",
    ),
    (
        r"Long Path",
        "a path is too long for Windows",
        "Turn on long paths in Windows, or move this folder nearer to the drive's root",
    ),
    (
        r"NewConnectionError|Failed to establish|name ?resolution|getaddrinfo|unreachable|timed out"
        r"|Connection (?:refused|reset|aborted|broken)|ProxyError|SSLError|CERTIFICATE",
        "the package index cannot be reached",
        "Connect to the internet, or set PIP_PROXY or PIP_INDEX_URL",
    ),
    (
        r"No matching distribution found",
        f"there is no build of it for {PYTHON}",
        "Use a 64-bit Python 3.10 to 3.13 (on a Mac, macOS 14 or newer on Apple silicon)",
    ),
)


def venv_python(folder, windows=WINDOWS):
    return folder / "Scripts" / "python.exe" if windows else folder / "bin" / "python"


def check_python():
    """Raises SetupError when this Python cannot make virtual environments."""
    if sys.version_info[:2] > NEWEST_TESTED:
        say(f"Note: Python 3.10 to 3.13 are tested, this is {VERSION}.")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"Expected Python's venv module, but {sys.executable} comes without. On Debian and Ubuntu: "
            f"sudo apt install python{VERSION}-venv; elsewhere install Python from python.org. Then run this again."
        )


def make_venv(folder):
    """Makes a virtual environment in `folder`, which exists. Raises SetupError with Python's words."""
    say(f"  making the virtual environment with {sys.executable}, 10 seconds ...")
    command = [sys.executable, "-m", "venv", str(folder)]
    made = subprocess.run(
        command,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if made.returncode:
        words = " ".join(made.stdout.split())[-300:]
        raise SetupError(f"Could not make {folder}: {words}. Mend that, or use another Python, then run this again.")


class NothingChanged(SetupError):
    """pip gave up before it installed anything: without a network, say."""


def pip_install(python, step, log, lock=None):
    """Runs pip with `step.arguments()`; its words go to the file `log`.

    Raises SetupError when pip fails: NothingChanged where it had not touched the environment yet.
    """
    command = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--no-compile"]  # thousands of files of which few are ever imported; those are compiled then
    # On POSIX pip inherits the lock: should this process be killed, nobody else starts before pip has ended.
    held = () if WINDOWS or lock is None else (lock.fileno(),)
    process = subprocess.Popen(
        command + step.arguments(),
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        pass_fds=held,
    )
    words = []
    try:
        with open(log, "a", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                words.append(line)
                status(line)
        process.wait()
    finally:
        status("")
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        changed = any("Installing collected packages" in line for line in words)
        raise (SetupError if changed else NothingChanged)(explain("".join(words), step, log))


def explain(words, step, log):
    """One line for a call of pip that failed: what was wanted, what happened, the remedy."""
    errors = re.findall(r"^\s*ERROR: (.+)$", words, re.MULTILINE) or words.strip().split("\n")[-1:]
    found, remedy = f'pip says "{errors[0].strip()[:300]}"', "Mend that"
    for pattern, meaning, advice in REMEDIES:
        if re.search(pattern, words, re.IGNORECASE):
            found, remedy = meaning, advice
            break
    return f"Could not install {step.what.split(',')[0]}: {found}. {remedy}, then run this again. Details: {log}"


def clear(folder):
    """Empties `folder`, or makes it. What was in it is moved away as a whole first: a folder that is half removed would
    not be known as ours any more."""
    old = folder.with_name(folder.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        os.replace(folder, old)
    folder.mkdir()
    shutil.rmtree(old, ignore_errors=True)
