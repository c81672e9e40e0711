"""Numbers as a reader sees them."""

from __future__ import annotations

import re

import pytest

import xmc_explore as xe
from xmc_explore.wording import did_you_mean, numeral


@pytest.mark.parametrize(("value", "form", "text"), [
    (-1.476, "+.2f", "\N{MINUS SIGN}1.48"), (1.476, "+.2f", "+1.48"), (-1234, ",", "\N{MINUS SIGN}1,234"),
    (-0.001, ".2f", "0.00"), (-0.0, ".3g", "0"), (1e-7, ".3g", "1e-07"), (-2e-7, ".1g", "\N{MINUS SIGN}2e-07"),
    (float("nan"), ".3g", "nan"), (float("-inf"), "g", "\N{MINUS SIGN}inf")])
def test_a_minus_is_a_minus(value, form, text):
    assert numeral(value, form) == text


def test_no_number_that_a_student_sees_has_a_hyphen_for_a_minus():
    verdicts = xe.claims.paper_says({"gradient-norm": -1.5})
    picture = xe.plots.numbers({"below": -1.5, "above": 2.5}, "Two numbers", "points")
    for text in (verdicts._repr_html_(), repr(verdicts), picture.caption, picture.alt, picture.html(), picture.svg()):
        words = re.sub(r"<[^>]*>", " ", text)
        assert "\N{MINUS SIGN}1.5" in words and not re.search(r"(?<![\w.])-\d", words)


def test_a_near_name_is_guessed_and_a_far_one_is_not():
    assert did_you_mean("fanin", ["fan_in", "loss"]) == "; did you mean 'fan_in'?"
    assert did_you_mean("x", iter(["fan_in", "loss"])) == ""
