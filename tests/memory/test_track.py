"""track_peak against bytes counted by hand."""

import copy
import gc
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atheria_lab.memory import track_peak

KIB = 1024


def floats(kib):
    """A tensor of so many KiB."""
    return torch.zeros(kib * KIB // 4)


def counted(peak):
    """Live and peak, in KiB."""
    return peak.live_bytes / KIB, peak.peak_bytes / KIB


# What counts


def test_what_is_made_counts_until_it_is_freed():
    with track_peak() as peak:
        assert counted(peak) == (0, 0)
        a = floats(4)
        assert counted(peak) == (4, 4)
        b = floats(2)
        del a
        assert counted(peak) == (2, 6)
        a = floats(1)
        assert counted(peak) == (3, 6)
        c = floats(5)
        assert counted(peak) == (8, 8)
    del a, b, c


def test_lifetimes_are_followed_after_the_block_but_nothing_new_counts():
    with track_peak() as peak:
        a, b = floats(4), floats(2)
    after = floats(64)
    assert counted(peak) == (6, 6)
    del a
    assert counted(peak) == (2, 6)
    del b, after
    assert counted(peak) == (0, 6)


def test_views_count_once_and_keep_their_storage_alive():
    with track_peak() as peak:
        a = floats(4)
        views = [a[8:], a.view(-1, 4), a.detach(), a.reshape(2, -1).T, a.expand(3, -1), a.data]
        views += [a.chunk(2), a.real, nn.Parameter(a), a.untyped_storage()]
        assert counted(peak) == (4, 4)
        del a
        assert counted(peak) == (4, 4)
        views.clear()
        assert counted(peak) == (0, 4)


def test_what_was_there_before_never_counts():
    old, other = floats(4), floats(4)
    with track_peak() as peak:
        kept = [old[3:], old.add_(1), old.view(-1, 2), old.detach(), torch.mul(old, 2, out=other)]
        assert counted(peak) == (0, 0)
        del old, other
        kept.clear()
        assert counted(peak) == (0, 0)  # and gives nothing back
        new = floats(1)
        assert counted(peak) == (1, 1)
    del new


def test_in_place_operators_make_nothing():
    with track_peak() as peak:
        a = floats(4)
        a.add_(1).mul_(2)
        a[:8].fill_(3)
        torch.exp(a, out=a)
        assert counted(peak) == (4, 4)


def test_operands_and_results_are_alive_together():
    with track_peak() as peak:
        a = floats(4)
        a = a + 1
        assert counted(peak) == (4, 8)
        a = (a * 2) * 3  # a, its double, and the result
        assert counted(peak) == (4, 12)


def test_every_way_to_make_a_tensor_counts():
    ways = {
        "torch.tensor": lambda: torch.tensor([1.0, 2.0]),
        "as_tensor": lambda: torch.as_tensor([1.0, 2.0]),
        "new_tensor": lambda: torch.ones(()).new_tensor([1.0, 2.0]),
        "empty": lambda: torch.empty(2),
        "clone": lambda: torch.tensor([1.0, 2.0]).clone(),
        "stack": lambda: torch.stack([torch.tensor(1.0)] * 2),
        "to": lambda: torch.zeros(2, dtype=torch.int64).to(torch.float32),
        "several": lambda: torch.tensor([[1.0], [2.0]]).unbind(),
        "a parameter": lambda: nn.Parameter(torch.zeros(2)),
        "complex": lambda: torch.zeros(1, dtype=torch.complex64),
        "half": lambda: torch.zeros(4, dtype=torch.bfloat16),
        "inference": lambda: torch.inference_mode()(torch.zeros)(2),
        "set .data": lambda: setattr(tensor := torch.zeros(9), "data", torch.zeros(2)) or tensor,
    }
    live = {}
    for name, make in ways.items():
        with track_peak() as peak:
            made = make()
            live[name] = peak.live_bytes
        del made
    assert live == dict.fromkeys(ways, 8)


def test_a_deep_copy_counts_once():
    older = torch.zeros(100)
    with track_peak() as peak:
        copied = copy.deepcopy(older)
        assert peak.live_bytes == 400
        again = copy.deepcopy(copied)
        assert peak.live_bytes == 800
    assert peak.peak_bytes <= 804  # torch makes an empty tensor on the way
    del older, again
    assert (peak.live_bytes, len(copied)) == (400, 100)


def test_a_storage_that_is_resized_counts_as_it_is():
    with track_peak() as peak:
        a = floats(1)
        a.resize_(KIB)
        assert counted(peak) == (4, 4)
        a.untyped_storage().resize_(2 * KIB)
        a.detach()  # no operator tells; the next one that returns the storage does
        assert counted(peak) == (2, 4)
        del a
        assert counted(peak) == (0, 4)


def test_tensors_without_a_storage_of_their_own_are_no_trouble():
    with track_peak() as peak:
        sparse = torch.eye(4).to_sparse()
        assert (sparse + sparse).to_dense().sum() == 8
        del sparse
    assert peak.live_bytes == 0


# The backward pass


def test_what_autograd_saves_counts_until_the_backward_pass_has_used_it():
    x = floats(4).requires_grad_()
    with track_peak() as peak:
        loss = (2 * x).exp().sum()  # exp saves its result; of the product nothing is needed
        assert (peak.live_bytes, peak.peak_bytes) == (4 * KIB + 4, 8 * KIB)
        peak.reset_peak()
        loss.backward()
        # The loss, its gradient (a one, which the sum spreads as a view), the saved result and
        # the gradient of the exponent; the gradient of x then takes the place of the saved result.
        assert peak.peak_bytes == 4 + 4 + 4 * KIB + 4 * KIB
        assert peak.live_bytes == 4 + 4 * KIB  # the loss and x.grad
    del loss
    assert counted(peak)[0] == 4
    x.grad = None
    assert counted(peak)[0] == 0


def test_every_saved_state_of_a_chain_is_alive():
    x = floats(2).requires_grad_()
    with track_peak() as peak:
        y = x
        for _ in range(10):
            y = y.tanh()
        assert counted(peak) == (20, 20)
        del y
        assert counted(peak) == (0, 20)
    with track_peak() as peak, torch.no_grad():
        y = x
        for _ in range(10):
            y = y.tanh()
        assert counted(peak) == (2, 4)


# Blocks


def test_blocks_may_be_nested():
    with track_peak() as outer:
        a = floats(1)
        with track_peak() as inner:
            a.add_(1)  # not made here
            b = floats(2)
            assert (inner.counts(a), inner.counts(b)) == (False, True)
        c = floats(4)
        assert (counted(inner), counted(outer)) == ((2, 2), (7, 7))
        assert not inner.counts(c)
        assert all(map(outer.counts, (a, b, c)))
        del b
        assert (counted(inner), counted(outer)) == ((0, 2), (5, 7))
    del a, c


def test_blocks_may_follow_each_other():
    for kib in (4, 1):
        with track_peak() as peak:
            floats(kib)
        assert counted(peak) == (0, kib)


def test_a_function_may_be_tracked_at_each_call():
    @track_peak()
    def make():
        return floats(1)

    assert make().numel() == make().numel() == 256


def test_an_exception_ends_the_block_and_leaves_the_count_right():
    def fails():
        held = floats(4)
        raise RuntimeError(f"of {held.shape}")

    with pytest.raises(RuntimeError, match="of "), track_peak() as peak:
        kept = floats(1)
        fails()
    gc.collect()
    floats(64)  # the block is over
    assert counted(peak) == (1, 5)
    del kept
    assert counted(peak) == (0, 5)


def test_an_operator_that_fails_changes_nothing():
    with track_peak() as peak:
        a = floats(1)
        with pytest.raises(RuntimeError):
            a + torch.ones(3)
        gc.collect()
        assert peak.live_bytes == KIB
    del a


def test_reset_peak_starts_from_what_is_live():
    with track_peak() as peak:
        a = floats(1)
        floats(8)
        peak.reset_peak()
        assert counted(peak) == (1, 1)
        floats(2)
        assert counted(peak) == (1, 3)
    del a


def test_what_a_cycle_holds_is_live_until_it_is_collected():
    class Node:
        pass

    gc.disable()
    try:
        with track_peak() as peak:
            node = Node()
            node.itself, node.tensor = node, floats(4)
            del node
            assert counted(peak) == (4, 4)
            gc.collect()
            assert counted(peak) == (0, 4)
    finally:
        gc.enable()


def test_another_thread_may_free():
    with track_peak() as peak:
        held = [floats(1) for _ in range(10)]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        assert counted(peak) == (0, 10)


def test_it_reads_well():
    with track_peak() as peak:
        a = floats(3)
        floats(1)
        assert repr(peak) == "Peak(live=3.0 KiB, peak=4.0 KiB)"
    del a


# Any order


moves = st.lists(
    st.tuples(st.sampled_from(["make", "view", "add", "drop", "old"]), st.integers(0, 99)),
    max_size=30,
)


@settings(max_examples=60)
@given(moves)
def test_any_order_of_making_viewing_and_dropping(moves):
    """Against a ledger: each tensor with the id of its storage and the bytes of it."""
    before = torch.zeros(1000)
    held, most = [], 0

    def live():
        return sum(dict(entry[1:] for entry in held).values())

    with track_peak() as peak:
        for number, (move, n) in enumerate(moves):
            picked = held[n % len(held)] if held else None
            if move == "make":
                held.append((torch.empty(n + 1), number, 4 * (n + 1)))
            elif move == "old":
                held.append((before[n:], -1, 0))
            elif picked is not None and move == "view":
                held.append((picked[0][:1], *picked[1:]))
            elif picked is not None and move == "add":
                held.append((picked[0] + 1, number, 4 * picked[0].numel()))
            elif picked is not None and move == "drop":
                del held[n % len(held)]
            picked = None
            most = max(most, live())
            assert (peak.live_bytes, peak.peak_bytes) == (live(), most)
    held.clear()
    assert peak.live_bytes == 0
