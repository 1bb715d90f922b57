"""HistoryStrip, EventLog and MemoryCurves without a browser."""

import gc
import weakref

import ipywidgets
import numpy as np
import pytest

import atheria_lab as al
from atheria_lab import lattice
from atheria_lab.memory import Monitor
from atheria_lab.widgets import EventLog, HistoryStrip, MemoryCurves


def listen(view):
    view.sent = []
    view.send = lambda content, buffers=None: view.sent.append((content, buffers))
    view._handle_custom_msg({"kind": "hello"}, [])
    return view


def test_thumbnails_are_small_and_psi_is_not_held():
    strip = listen(HistoryStrip())
    states = [lattice.random((200, 100), 2, seed=seed) for seed in range(5)]
    held = weakref.ref(states[0].untyped_storage())
    strip.show(states, [10, 20, 30, 40, 50], 50)
    content, buffers = strip.sent[0]
    assert content["indices"] == [10, 20, 30, 40, 50]
    assert content["shape"] == [48, 48]
    assert len(buffers[0]) == 5 * 48 * 48
    assert "5 of 50 states kept" in content["title"]
    states.clear()
    gc.collect()
    assert held() is None
    strip.close()


def test_many_states_are_thinned_first_and_last_kept():
    strip = listen(HistoryStrip())
    psi = lattice.random(4, 1)
    strip.show([psi] * 401, range(401), 400)
    indices = strip.sent[0][0]["indices"]
    assert len(indices) == 64
    assert (indices[0], indices[-1]) == (0, 400)
    strip.close()


def test_a_click_picks_a_state_and_marks_it():
    picked = []
    strip = listen(HistoryStrip(on_pick=picked.append))
    strip.show([lattice.random(4, 1)] * 2, [3, 6], 6)
    strip._handle_custom_msg({"kind": "ack", "id": 1}, [])
    strip._handle_custom_msg({"kind": "pick", "index": 6}, [])
    assert picked == [6]
    assert strip.sent[-1][0]["picked"] == 6
    strip.close()


def test_no_states_are_a_picture_and_a_wrong_number_is_refused():
    strip = listen(HistoryStrip())
    strip.show([], [], 10)
    assert strip.sent[0][0]["indices"] == []
    with pytest.raises(ValueError, match="indices: got 1 for 0 states"):
        strip.show([], [1], 10)
    strip.close()


def test_the_log_shows_its_newest_lines_and_says_what_was_dropped():
    events = listen(EventLog(al.EventLog(3)))
    for i in range(10):
        events.events.add(str(i))
    events.refresh()
    content = events.sent[-1][0]
    assert [text for _, _, text in content["entries"]] == ["7", "8", "9"]
    assert content["dropped"] == 7
    events.close()


def test_the_last_entry_is_shown_though_it_came_too_soon():
    events = listen(EventLog(per_second=20))
    for i in range(100):
        events.events.add(str(i))
    events._later.join(5)
    events.stream.receive({"kind": "hello"})
    assert events.sent[-1][0]["entries"][-1][2] == "99"
    assert len(events.sent) < 10
    events.close()
    events.events.add("after")
    assert events.sent[-1][0]["entries"][-1][2] == "99"


def test_memory_curves_follow_a_monitor_and_stop_their_own():
    view = listen(MemoryCurves(extra=lambda: {"budget": 5.0}, per_second=1000))
    view.monitor.sample()
    view.refresh()
    content = view.sent[-1][0]
    assert "resident" in content["names"]
    assert ["budget", 5.0] in [limit[:2] for limit in content["limits"]]
    numbers = np.frombuffer(view.sent[-1][1][0])
    assert numbers.max() > 2**20
    view.close()
    view._ticker._thread.join(10)
    assert not view._ticker._thread.is_alive()
    assert not view.monitor.running


def test_a_monitor_that_is_given_goes_on():
    with Monitor() as monitor:
        MemoryCurves(monitor).close()
        assert monitor.running


def test_closing_frees_every_widget():
    before = set(ipywidgets.widgets.widget._instances)
    for view in (HistoryStrip(), EventLog(), MemoryCurves()):
        view.close()
        view.close()
    assert set(ipywidgets.widgets.widget._instances) == before
