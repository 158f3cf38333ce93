"""What every command does with an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genprop_core.errors import GenPropError, exit_code


def test_a_command_ends_with_what_it_returned_or_one_line(capsys):
    def refuse():
        raise GenPropError("Expected this, got that. Do so.")

    assert exit_code(lambda: None) == 0 and exit_code(lambda: 1) == 1
    assert exit_code(refuse) == 2
    assert capsys.readouterr().err == "error: Expected this, got that. Do so.\n"


def test_ctrl_c_is_one_line_where_there_is_something_to_say(capsys):
    def stop():
        raise KeyboardInterrupt

    assert exit_code(stop, "nothing was written") == 130
    assert capsys.readouterr().err == "stopped: nothing was written\n"
    with pytest.raises(KeyboardInterrupt):
        exit_code(stop)


def test_memory_that_ran_out_is_one_line(capsys):
    def full():
        raise MemoryError

    assert exit_code(lambda: torch.empty(1 << 50)) == 2
    assert exit_code(full) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("Expected more memory than there is (" in line for line in lines)


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="shape"):
        exit_code(lambda: torch.zeros(2) @ torch.zeros(3, 3))


def test_letters_that_the_console_lacks_do_not_stop_a_command(tmp_path):
    code = "from genprop_core.errors import exit_code; exit_code(lambda: print('done:', '\\u65e5\\u672c.mp4'))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"done: ??.mp4", b"")
