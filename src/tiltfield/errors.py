"""The one exception that means "the input is at fault", and the wording of near misses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used; its message says what was expected, what was got, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name closest to `name`, capitals or not, or an empty string.

    Args:
        name: what the user wrote.
        valid: the names that would have been accepted.
    """
    small = {word.lower(): word for word in valid}
    close = difflib.get_close_matches(name.lower(), small, n=1, cutoff=0.5)
    return f"; did you mean '{small[close[0]]}'?" if close else ""
