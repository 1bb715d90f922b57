"""track_peak against bytes counted by hand."""

import gc

import pytest
import torch

from atheria_lab.memory import track_peak

KIB = 1024


def block(kib=1):
    return torch.zeros(kib * KIB // 4)


def test_what_is_made_counts_and_what_is_freed_does_not():
    with track_peak() as peak:
        a = block(4)
        assert (peak.live_bytes, peak.peak_bytes) == (4 * KIB, 4 * KIB)
        b = block(2)
        del a
        assert (peak.live_bytes, peak.peak_bytes) == (2 * KIB, 6 * KIB)
        a = block(1)
        assert (peak.live_bytes, peak.peak_bytes) == (3 * KIB, 6 * KIB)
    del a, b
    assert peak.live_bytes == 0
    assert peak.peak_bytes == 6 * KIB


def test_views_share_their_storage():
    with track_peak() as peak:
        a = block(4)
        views = [a[8:], a.view(-1, 4), a.detach(), a.reshape(2, -1).T]
        assert peak.live_bytes == 4 * KIB
        del a
        assert peak.live_bytes == 4 * KIB
        del views
        assert peak.live_bytes == 0


def test_tensors_from_before_do_not_count_nor_do_their_views():
    old = block(4)
    with track_peak() as peak:
        views = old[3:], old.add_(1), old.view(-1, 2)
        assert peak.live_bytes == 0
        del old, views
        assert peak.live_bytes == 0


def test_every_way_of_making_a_tensor_counts():
    with track_peak() as peak:
        kept = [torch.tensor([1.0, 2.0])]
        assert peak.live_bytes == 8
        kept.append(torch.empty(4).copy_(torch.arange(4)))
        assert peak.live_bytes == 8 + 16
        kept.append(kept[-1] * 2)
        assert peak.live_bytes == 8 + 16 + 16


def test_the_backward_pass_counts():
    weight = torch.ones(256, requires_grad=True)
    with track_peak() as peak:
        loss = (weight * 2).exp().sum()
        # exp keeps its result; the product is freed.
        assert peak.live_bytes == KIB + 4
        assert peak.peak_bytes == 2 * KIB
        loss.backward()
        del loss
        assert peak.live_bytes == KIB
    assert weight.grad is not None


def test_a_storage_that_is_resized_counts_as_it_is():
    with track_peak() as peak:
        a = block(1)
        a.resize_(KIB)
        assert peak.live_bytes == 4 * KIB


def test_blocks_may_be_nested():
    with track_peak() as outer:
        a = block(1)
        with track_peak() as inner:
            b = block(2)
        assert (inner.live_bytes, outer.live_bytes) == (2 * KIB, 3 * KIB)
        del a, b
        assert (inner.live_bytes, outer.live_bytes) == (0, 0)


def test_an_exception_leaves_nothing_behind():
    def fails():
        held = block(4)
        raise RuntimeError(f"{held.shape}")

    with track_peak() as peak, pytest.raises(RuntimeError):
        fails()
    gc.collect()
    assert peak.live_bytes == 0
    assert peak.peak_bytes == 4 * KIB


def test_reset_peak_starts_from_what_is_live():
    with track_peak() as peak:
        a = block(1)
        block(8)
        peak.reset_peak()
        assert peak.peak_bytes == KIB
        del a
