"""A series in constant memory: extremes, means and counts survive, the rest is joined."""

import math
import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import atheria_lab as al

numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(numbers, max_size=200), st.integers(2, 13))
def test_it_stays_small_and_nothing_finite_is_lost(ys, most):
    series = al.Series(most)
    size = series.nbytes
    for x, y in enumerate(ys):
        series.add(x, y)
        assert len(series) <= most
    assert series.nbytes == size
    finite = [y for y in ys if math.isfinite(y)]
    b = series.buckets()
    assert series.count == b.counts.sum() == len(finite)
    assert series.not_finite == len(ys) - len(finite)
    known = b.counts > 0
    assert np.isnan(b.mean[~known]).all() and np.isnan(b.low[~known]).all()
    if finite:
        assert np.nanmin(b.low) == min(finite)
        assert np.nanmax(b.high) == max(finite)
        assert (b.low[known] <= b.mean[known]).all() and (b.mean[known] <= b.high[known]).all()
    if ys:
        assert series.last == ys[-1] or math.isnan(ys[-1])
        assert len(series) >= min(len(ys), most // 2)
    assert (np.diff(b.x) > 0).all()


@given(
    st.lists(st.floats(-1e308, 1e308) | st.floats(-1, 1), min_size=1, max_size=200),
    st.integers(2, 13),
)
def test_each_point_has_the_extremes_and_the_exact_mean_of_its_numbers(ys, most):
    series = al.Series(most)
    for x, y in enumerate(ys):
        series.add(x, y)
    b = series.buckets()
    ends = np.cumsum(b.counts)
    for i, (start, end) in enumerate(zip(ends - b.counts, ends, strict=True)):
        own = ys[start:end]
        assert (b.low[i], b.high[i]) == (min(own), max(own))
        assert b.x[i] == (start + end - 1) / 2
        exact = sum(map(Fraction, own)) / len(own)
        rounding = Fraction(max(map(abs, own))) / 2**100  # what cancels leaves
        error = abs(Fraction(float(b.mean[i])) - exact)
        assert error <= abs(exact) / 2**51 + rounding + Fraction(1, 10**280)


def test_few_numbers_are_all_there():
    series = al.Series(2000)
    for step in range(2000):
        series.add(step, step % 7)
    assert series.mean.tolist() == [step % 7 for step in range(2000)]
    assert series.each == 1
    series.add(2000, 3.0)
    assert (len(series), series.each, series.low[0], series.high[0]) == (1001, 2, 0, 1)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 20_000))
def test_one_spike_in_a_long_session_is_seen(place):
    series = al.Series(64)
    for step in range(20_001):
        series.add(step, 1e6 if step == place else 1.0)
    b = series.buckets()
    at = int(np.argmax(b.high))
    assert b.high[at] == 1e6
    assert abs(b.x[at] - place) <= series.each


def test_points_are_of_equal_width_and_one_line_stays_that_line():
    series = al.Series(8)
    for step in range(8 * 16):
        series.add(step, 2 * step)
    b = series.buckets()
    assert set(b.counts.tolist()) == {16}
    assert (b.mean == 2 * b.x).all()


def test_one_writes_while_others_read():
    series, wrong, done = al.Series(50), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            b = series.buckets()
            if len({len(part) for part in b}) != 1 or (b.mean != b.x).any():
                wrong.append(b)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for step in range(20_000):
        series.add(step, step)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert series.count == series.buckets().counts.sum() == 20_000


def test_it_fits_the_curves():
    from atheria_lab.widgets.curves import Line

    series = al.Series(10)
    for step in range(95):
        series.add(step, -step)
    line = Line(*series.buckets()[:4])
    assert len({len(part) for part in line[:4]}) == 1 and line.low.min() == -94


def test_clear_starts_anew():
    series = al.Series(4)
    for step in range(100):
        series.add(step, math.nan)
    series.clear()
    series.add(0, 1.0)
    assert (series.count, series.not_finite, series.each, len(series)) == (1, 0, 1, 1)


@pytest.mark.parametrize("x", [math.nan, math.inf, 1.0])
def test_x_that_does_not_rise_is_refused_and_nothing_changes(x):
    series = al.Series(4)
    series.add(2.0, 5.0)
    with pytest.raises(ValueError, match="x: got .* do not fall"):
        series.add(x, 6.0)
    assert series.count == 1 and series.last == 5.0


@pytest.mark.parametrize("most", [0, 1, -3])
def test_a_table_too_small_is_refused(most):
    with pytest.raises(ValueError, match="max_points"):
        al.Series(most)


def test_it_is_shown_with_its_name_escaped():
    series = al.Series(name="<loss>")
    assert "svg" not in series._repr_html_()
    for step, y in enumerate([1, 2, math.nan, 4, math.inf, 2]):
        series.add(step, y)
    shown = series._repr_html_()
    assert "<loss>" not in shown and "&lt;loss&gt;" in shown
    assert shown.count("<path") == 6  # three runs, a band and a line each
    assert repr(series) == (
        "Series('<loss>', 4 numbers in 6 points, from 1 to 4, last 2, 2 not finite)"
    )
