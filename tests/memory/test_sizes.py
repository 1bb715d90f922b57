"""Bytes in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512 MiB", 512 * 2**20),
        ("512mib", 512 * 2**20),
        ("2 GB", 2 * 10**9),
        ("1.5 KiB", 1536),
        (".5 kB", 500),
        ("17", 17),
        ("3 B", 3),
        (" 1 TiB ", 2**40),
        (4096, 4096),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["12 parsecs", "", "MiB", "-1 MiB", "1e3 MiB", "0 MiB", 0, -5])
def test_what_is_no_size_is_refused_by_its_name(text):
    with pytest.raises(ValueError, match="budget"):
        parse_size(text, name="budget")


@pytest.mark.parametrize("thing", [None, 1.5, True, [1]])
def test_other_types_are_refused(thing):
    with pytest.raises(TypeError, match="budget"):
        parse_size(thing, name="budget")


@given(st.text(max_size=12))
def test_no_text_crashes_it(text):
    try:
        assert parse_size(text) >= 1
    except ValueError as error:
        assert "size" in str(error)


@given(st.integers(1, 2**50))
def test_what_is_written_is_read_back_nearly(size):
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)
