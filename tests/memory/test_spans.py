"""What a tracked block did, owner after owner."""

import threading

import torch
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory import owner, spans, track_peak
from atheria_lab.memory.spans import Span, record_spans, thinned


def floats(count):
    return torch.zeros(count, dtype=torch.uint8)


def test_a_span_for_each_innermost_block():
    with track_peak() as peak, record_spans(peak) as seen:
        with owner("run"):
            with owner("a"):
                floats(100)
                a = floats(10)
            with owner("b"):
                b = floats(5)
        with owner("c"):
            del a, b
    assert seen == [
        Span("run/a", 1, 100, 10),
        Span("run/b", 1, 15, 15),
        Span("c", 1, 15, 0),
    ]


def test_blocks_of_another_thread_are_not_in_it():
    def elsewhere():
        with owner("there"):
            floats(3)

    with track_peak() as peak, record_spans(peak) as seen, owner("here"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert [span.owner for span in seen] == ["here"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 99)), max_size=40), st.data())
def test_thinning_keeps_peaks_order_and_steps(parts, data):
    full = [Span(name, 1, peak) for name, peak in parts]
    each = data.draw(st.integers(1, 8), "each")
    few = thinned(full, each)
    assert sum(span.steps for span in few) == len(full)
    assert max((span.peak for span in few), default=0) == max((p for _, p in parts), default=0)
    place = 0
    for span in few:
        part = full[place : place + span.steps]
        assert {one.owner for one in part} == {span.owner}
        assert span.peak == max(one.peak for one in part)
        place += span.steps


def test_a_long_block_keeps_so_many_spans_and_no_more(monkeypatch):
    monkeypatch.setattr(spans, "MOST_SPANS", 10)
    with track_peak() as peak, record_spans(peak) as seen:
        for i in range(100):
            with owner("step"):
                floats(1000 if i == 57 else 10)
    assert len(seen) <= 11
    assert sum(span.steps for span in seen) == 100
    assert [span.peak for span in seen].count(1000) == 1
