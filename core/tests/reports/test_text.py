"""Texts cannot act, and numbers cannot mislead."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipsec.reports._text import (
    compared,
    decimals_for,
    duration,
    figure,
    in_column,
    memory,
    moment,
    number,
    percent,
    plural,
    relation,
    title,
    visible,
)

any_text = st.text(st.characters(exclude_categories=()), max_size=40)


@given(any_text)
def test_nothing_invisible_or_active_remains(text):
    """No control, format (but the two joiners), surrogate, private or unassigned character, no line break."""
    for character in visible(text):
        category = unicodedata.category(character)
        assert category[0] != "C" or character in "\u200c\u200d"
        assert category not in ("Zl", "Zp")


@given(any_text)
def test_the_result_can_be_encoded_and_seen_again(text):
    """It is valid UTF-8, and making it visible twice changes nothing."""
    shown = visible(text)
    shown.encode("utf-8")
    assert visible(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "M"]), max_size=40))
def test_ordinary_text_of_any_script_stays_as_it_is(text):
    """Letters, digits, marks, punctuation, symbols and spaces are not touched."""
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eevil", r"\u202eevil"),
        ("a\nb", r"a\nb"),
        ("\ud800", r"\ud800"),
        ("\u2028", r"\u2028"),
        ("\u0646\u200c\u0646", "\u0646\u200c\u0646"),
        (3, "3"),
    ],
)
def test_what_hides_is_shown_as_its_escape(text, shown):
    """A terminal escape, a direction override, a line break, a lone surrogate."""
    assert visible(text) == shown


def test_line_breaks_stay_where_they_are_wanted():
    """In tracebacks and messages, and only there."""
    assert visible("a\n\tb\r\x00", lines=True) == "a\n\tb\\r\\x00"


def test_a_long_text_is_cut_and_says_so():
    """The length of the whole is told."""
    assert visible("x" * 1000, longest=5) == "xxxxx... (1,000 characters in all)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (0.0, "0.00"),
        (5.306, "5.31"),
        (-5.306, "\u22125.31"),
        (0.01234, "0.0123"),
        (1234.5, "1,234"),
        (99.5, "99.5"),
        (1e-7, "1.00e\u221207"),
        (2.5e12, "2.50e+12"),
        (math.nan, "not a number"),
        (math.inf, "∞"),
        (-math.inf, "\u2212∞"),
    ],
)
def test_numbers(value, text):
    """Three significant digits, a true minus, and words for what is no number."""
    assert number(value) == text


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
@example(0.0, -0.0)
@example(1.0, math.nextafter(1.0, 2.0))
@example(2e8, math.nextafter(2e8, 0.0))
def test_two_different_numbers_never_look_equal_beside_each_other(score, threshold):
    """`score 2.00 > threshold 2.00` cannot happen."""
    left, right = compared(score, threshold)
    assert (left == right) is (score == threshold)


@given(st.floats(), st.floats())
def test_the_relation_is_the_numbers_own(score, threshold):
    """Never from rounded texts; nothing for a NaN."""
    sign = relation(score, threshold)
    assert (sign == ">") is (score > threshold)
    assert (sign == "<") is (score < threshold)
    assert (sign == "") is (math.isnan(score) or math.isnan(threshold))


@given(st.floats(0, 1))
def test_a_percentage_claims_0_or_100_only_when_it_is(rate):
    """Rounding does not turn 99.9 % into all, or one picture into none."""
    text = percent(rate)
    assert (text == "100\u202f%") is (rate == 1)
    assert (text == "0\u202f%") is (rate == 0)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.5, "50"), (0.999, "99.9"), (0.9999, "> 99.9"), (0.001, "0.1"), (0.0001, "< 0.1"), (0.996, "99.6")],
)
def test_percentages(rate, text):
    """One decimal only where it is needed."""
    assert percent(rate) == f"{text}\u202f%"


def test_a_rate_that_is_none_or_nan_is_not_a_percentage():
    """A dash and words."""
    assert (percent(None), percent(math.nan)) == ("\u2013", "not a number")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0312, "0.031 s"),
        (9.4, "9.4 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, text):
    """Two units at most."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (1430000000, "1.33 GiB")]
)
def test_memory(count, text):
    """Binary units."""
    assert memory(count) == text


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_a_column_has_the_same_decimals_everywhere(values):
    """All finite cells of a column have as many digits after the point."""
    decimals = decimals_for(values)
    points = {len(in_column(value, decimals).partition(".")[2]) for value in values}
    assert points == {decimals}


def test_small_helpers():
    """Counts, plurals, headings and times."""
    assert (figure(0.25, "null_success_rate"), figure(0.25, "accurate")) == ("25\u202f%", "0.250")
    assert (figure(3.0), figure(3.123), figure(math.inf)) == ("3", "3.12", "∞")
    assert (plural(1, "class", "classes"), plural(25, "class", "classes"), plural(2, "check")) == (
        "1 class",
        "25 classes",
        "2 checks",
    )
    assert (title("success_rate"), title(""), title("ASR")) == ("Success rate", "", "ASR")
    assert moment("2026-11-21T10:30:59+01:00") == "2026-11-21 09:30 UTC"
    assert moment("yesterday") == "yesterday"
