"""Errors a user can act on. The command line and the nodes print these as one plain line."""


class GenPropError(ValueError):
    """Something given to us does not fit. The message says what was expected, what came, and what to do."""
