"""Numbers as a reader sees them: one way, with a true minus sign. A hyphen is shorter, and is lost beside a digit."""

from __future__ import annotations

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
