"""The paper says, you measured: a student's numbers beside what several seeds gave here, with a verdict in words.

`data/claims.json` holds, for each claim, the mean of a difference that has to be above 0 for the claim to hold, its
95 % confidence interval, and the range in which one further run falls 19 times of 20. `python -m benchmarks.claims`
measures and writes it; its table with all conditions is `benchmarks/results/claims.md`. What came after the paper is in
`data/claims_after.json`, by `python -m benchmarks.after_the_paper`; what notebooks alone measure, races among it, in
`data/claims_notebooks.json`, by `python -m benchmarks.notebook_claims`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from .wording import did_you_mean, numeral

FILE = Path(__file__).resolve().parent.parent / "data" / "claims.json"


@cache
def known() -> dict[str, dict[str, Any]]:
    """Every claim by its key. Raises FileNotFoundError, saying what to run, if none was measured yet."""
    if not FILE.exists():
        raise FileNotFoundError(f"{FILE} is missing: `python -m benchmarks.claims` measures and writes it")
    files = (FILE, FILE.with_name("claims_after.json"), FILE.with_name("claims_notebooks.json"))
    return {key: claim for file in files if file.exists() for key, claim in json.loads(file.read_text("utf-8")).items()}


@dataclass(frozen=True)
class Verdicts:
    """One row a claim; shows as a table in a notebook and as text elsewhere. `rows` are plain dictionaries."""

    rows: list[dict[str, str]]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{html.escape(c)}</th>' for c in self.rows[0])
        body = "".join("<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{html.escape(v)}</td>'
                                        for v in row.values()) + "</tr>" for row in self.rows)
        return (f'<table class="xmc-verdicts"><caption>The paper says, you measured</caption>'
                f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def __repr__(self) -> str:
        return "\n\n".join("\n".join(f"{k}: {v}" for k, v in row.items()) for row in self.rows)


def paper_says(measured: Mapping[str, float]) -> Verdicts:
    """Put what was measured, {claim: difference}, beside what the paper says and what several seeds gave here.

    A difference above 0 speaks for the claim. Raises KeyError for a claim that is not known, ValueError for none and
    for what is no number.
    """
    if not measured:
        raise ValueError("nothing was measured: give {claim: number}; the claims are " + ", ".join(known()))
    rows = []
    for key, number in measured.items():
        if key not in known():
            raise KeyError(f"no claim is called {key!r}{did_you_mean(key, known())}")
        if not isinstance(number, Real):
            raise ValueError(f"{key!r} needs a number; got {number!r}")
        claim = known()[key]
        rows.append({
            "the claim (whose)": f"{claim['claim']} ({claim['source']})",
            "measured as": claim["difference"],
            "you": f"{numeral(number, SIGNED)} {claim['unit']}",
            "expected here": _expected(claim),
            "verdict": verdict(claim, number)})
    return Verdicts(rows)


def _expected(claim: Mapping[str, Any]) -> str:
    several = f"{claim['seeds']} {claim.get('runs', 'seeds')}"
    if claim["one_low"] == claim["one_high"]:
        return f"{numeral(claim['mean'], SIGNED)} (the same in {several})"
    return (f"{numeral(claim['one_low'], SIGNED)} to {numeral(claim['one_high'], SIGNED)} (one run; {several} gave "
            f"{numeral(claim['mean'], SIGNED)} on average)")


_OVERALL = {"reproduced": "the claim holds here", "opposite": "the opposite is true here",
            "not at this scale": "it cannot be told from no effect at this scale"}
SIGNED = "+.2f"
ROUNDING = 1e-3  # of the numbers that are stored


def verdict(claim: Mapping[str, Any], number: float) -> str:
    """In words: does this run agree with the claim, is it where runs fall, and what do all seeds say?"""
    if number != number:
        return "Nothing was measured."
    own = "Your run agrees." if number > 0 else "Your run does not show it."
    if not claim["one_low"] - ROUNDING <= number <= claim["one_high"] + ROUNDING:
        busy = "other programs at work, or " if claim.get("runs") == "races" else "or "
        own += f" It lies outside of what such runs gave: other settings, another machine, {busy}one throw in twenty."
    return f"{own} Over all {claim.get('runs', 'seeds')} {_OVERALL[claim['verdict']]}."
