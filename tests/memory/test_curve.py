"""A curve of fixed size: nothing is lost but when exactly."""

from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory.curve import Curve


@given(st.lists(st.none() | st.integers(0, 10**12), max_size=300), st.integers(2, 9))
def test_it_stays_small_and_peaks_survive(samples, most):
    curve = Curve(most)
    for time, value in enumerate(samples):
        curve.add(float(time), value)
        assert len(curve) <= most
        assert curve.last == value
    known = [value for value in samples if value is not None]
    assert curve.peak == max(known, default=None)
    assert min((p.low for p in curve.points), default=None) == min(known, default=None)
    times = [point.time for point in curve.points]
    assert times == sorted(set(times))
    if known:
        assert times[0] == samples.index(known[0])


def test_few_samples_are_all_there():
    curve = Curve()
    for time in range(1000):
        curve.add(time, time % 7)
    assert [point.high for point in curve.points] == [time % 7 for time in range(1000)]
    curve.add(1000, 3)
    assert len(curve) == 501
    assert (curve.points[0].low, curve.points[0].high) == (0, 1)


def test_points_are_of_equal_width_once_they_are_joined():
    curve = Curve(8)
    for time in range(8 * 16):
        curve.add(time, time)
    widths = [b.time - a.time for a, b in zip(curve.points, curve.points[1:], strict=False)]
    assert len(set(widths)) == 1
