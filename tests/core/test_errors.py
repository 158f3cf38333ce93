"""What every command does with an error."""

import pytest

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


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)
