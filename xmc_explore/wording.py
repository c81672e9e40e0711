"""What messages and pictures have in common in their words: numbers with a true minus sign, a guess at a name, errors.

A hyphen is shorter than a minus, and is lost beside a digit.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"


def numeral(value: float, form: str = ".3g") -> str:
    """`value` by a format specification, its sign a true minus: numeral(-1.476, "+.2f") is "−1.48".

    The minus of an exponent stays as Python reads it, and nothing that rounds to 0 has a sign. Raises ValueError for a
    specification that `format` does not know.
    """
    text = format(value, form)
    if not text.startswith("-"):
        return text
    return MINUS + text[1:] if text.strip("-0.,") else text[1:]


def named(error: BaseException) -> str:
    """An error by its kind and words, for where nobody expected it: "KeyError: a defect"."""
    # A KeyError's own text is the code of its key, in quotes.
    words = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about a name that is not known: "; did you mean 'fan_in'?", or nothing if none is near."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
