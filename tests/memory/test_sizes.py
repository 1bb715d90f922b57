"""Bytes, as people write and read them."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory import format_size, parse_size

UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
blanks = st.sampled_from(["", " ", "  ", "\t"])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512 MiB", 512 * 2**20),
        ("2 GB", 2 * 10**9),
        ("1.5 KiB", 1536),
        (".5 kB", 500),
        ("3. B", 3),
        ("17", 17),
        ("1.9 B", 1),
        ("007 B", 7),
        (4096, 4096),
    ],
)
def test_sizes_are_read(text, count):
    assert parse_size(text) == count


@given(st.integers(1, 2**70), st.sampled_from(list(UNITS)), blanks, blanks, blanks, st.booleans())
def test_a_whole_number_of_any_unit_is_exact(count, unit, before, between, after, shout):
    text = f"{before}{count}{between}{unit}{after}"
    assert parse_size(text.upper() if shout else text.lower()) == count * UNITS[unit]


@given(st.integers(1, 10**9), st.integers(0, 6), st.sampled_from(["MB", "GB", "GiB", "TiB"]))
def test_decimals_are_exact_too_and_parts_of_a_byte_are_dropped(digits, places, unit):
    whole, part = divmod(digits, 10**places)
    text = f"{whole}.{part:0{places}d} {unit}" if places else f"{whole} {unit}"
    assert parse_size(text) == int(Fraction(digits, 10**places) * UNITS[unit])


@pytest.mark.parametrize(
    "text",
    ["12 parsecs", "", " ", "MiB", "-1 MiB", "+1 MiB", "1e3 MiB", "1,5 MiB", "1 2 MiB", "1.2.3 B",
     "nan", "inf", "0x10", "1_000", "٣ MiB", "5 MiB!", "5 M", "0", "0 MiB", "0.5 B", 0, -5],
)  # fmt: skip
def test_what_is_no_size_is_refused_by_the_argument(text):
    with pytest.raises(ValueError, match=f"^budget: got {re.escape(repr(text))}; it takes "):
        parse_size(text, name="budget")


@pytest.mark.parametrize("thing", [None, 1.5, True, False, [1], b"1 MiB"])
def test_other_things_are_refused_by_the_argument(thing):
    with pytest.raises(TypeError, match=r"^host_budget: got .*; it takes bytes or a text such as"):
        parse_size(thing, name="host_budget")


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text):
    try:
        assert parse_size(text) >= 1
    except ValueError as error:
        assert str(error).startswith("size: got ")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (312, "312 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (64 * 2**20, "64.0 MiB"),
        (2**20 - 1, "1.0 MiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes_are_written(count, text):
    assert format_size(count) == text


@given(st.integers(1, 2**55))
def test_what_is_written_is_read_back_to_a_decimal(count):
    text = format_size(count)
    unit = UNITS[text.split()[1]]
    assert abs(parse_size(text) - count) <= (0.05 * unit + 1 if unit > 1 else 0)
