"""Bytes over seconds: a Series in which a sample may be unknown."""

from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory.curve import Curve


@given(st.lists(st.none() | st.integers(0, 2**50), max_size=100), st.integers(2, 9))
def test_it_stays_small_and_peaks_survive(samples, most):
    curve = Curve(most)
    for time, value in enumerate(samples):
        curve.sample(float(time), value)
        assert len(curve.points) <= most
        assert curve.newest == value
    known = [value for value in samples if value is not None]
    assert curve.peak == max(known, default=None)
    assert min((p.low for p in curve.points), default=None) == min(known, default=None)
    assert max((p.high for p in curve.points), default=None) == curve.peak
    times = [point.time for point in curve.points]
    assert times == sorted(set(times))
