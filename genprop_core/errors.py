"""Errors a user can act on. The command lines and the nodes print these as one plain line."""

import argparse
import sys


class GenPropError(ValueError):
    """Something given to us does not fit. The message says what was expected, what came, and what to do."""

    __module__ = "genprop_core.errors"  # ComfyUI shows it, and would load us under the path of the pack


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are errors like all others: one line, without the usage of every option."""

    def error(self, message):
        raise GenPropError(message)


def exit_code(body, stopped: str | None = None) -> int:
    """Runs a command's body and returns its exit code: what the body returned, or 0.

    A GenPropError, and memory that ran out, is one line on stderr and 2. stopped: what to say of Ctrl+C, which is then
    130.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a file's name may have letters that the console's code page lacks
        sys.stdout.reconfigure(errors="replace")
    try:
        return body() or 0
    except GenPropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from .out_of_memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"error: Expected more memory than there is ({reason}). Use fewer or smaller frames.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if stopped is None:
            raise
        print(f"stopped: {stopped}", file=sys.stderr)
        return 130
