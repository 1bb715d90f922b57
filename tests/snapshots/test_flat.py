"""5,000 steps end with the memory of 1,000; tests/soak/soak_flat.py makes 100,000."""

import pytest
from flat import run

from atheria_lab.memory import process


def test_nothing_grows():
    if process.heap_in_use() is None:
        pytest.skip("this C library does not say its heap")
    # Full by step 1,000, so that nothing may grow at all.
    first, *_, last = run(5000, limit=10, host_budget="512 KiB", size=32)
    assert (first.step, last.step) == (1000, 5000)
    assert last.tensors == first.tensors
    assert abs(last.heap - first.heap) <= 0.01 * first.heap + 2**20
