"""A budget for any PyTorch code."""

import pytest
import torch

from atheria_lab.memory import OverBudgetError, cap

KIB = 1024


def floats(kib):
    return torch.zeros(kib * KIB // 4)


def test_within_the_budget_nothing_happens():
    before = floats(100)
    with cap("8 KiB") as peak:
        a = before[:KIB] + 1
        a = a + 1
    assert peak.peak_bytes == 8 * KIB
    del a


def test_the_operator_that_goes_over_it_raises_and_its_result_is_freed():
    held = []
    over = pytest.raises(OverBudgetError, match=r"zeros.* went to 9.0 KiB, over 8.0 KiB")
    with over as error, cap("8 KiB") as peak:
        held.append(floats(4))
        held.append(floats(5))
    assert "zeros" in error.value.operator
    assert len(held) == 1
    error.value.__traceback__ = None
    assert peak.live_bytes == 4 * KIB
    held.clear()
    floats(100)  # the block is over


def test_backward_is_under_it_too():
    x = floats(4).requires_grad_()
    with pytest.raises(OverBudgetError), cap("8 KiB"):
        (2 * x).exp().sum().backward()
    x.grad = None
    with cap("12.1 KiB"):
        (2 * x).exp().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("budget", [0, "much", -3])
def test_bad_budgets_are_refused(budget):
    with pytest.raises(ValueError, match="budget: got"), cap(budget):
        pass
