"""Errors a user can act on. The command line and the nodes print these as one plain line."""


class GenPropError(ValueError):
    """Something given to us does not fit. The message says what was expected, what came, and what to do."""

    __module__ = "genprop_core.errors"  # ComfyUI shows it, and would load us under the path of the pack
