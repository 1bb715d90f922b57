"""A log that rotates: the oldest go first, and are counted."""

import gc
import logging
import threading
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import atheria_lab as al


@given(st.lists(st.text(max_size=5), max_size=40), st.integers(1, 12))
def test_the_newest_are_kept_in_order(texts, most):
    log = al.EventLog(most)
    for text in texts:
        log.add(text)
    assert [event.text for event in log] == texts[-most:]
    assert log.dropped == max(0, len(texts) - most)
    assert log.total == len(texts) == len(log) + log.dropped


@pytest.fixture
def logged():
    """A logger of its own: nobody else, pytest neither, sees its records."""
    log, logger = al.EventLog(3), logging.Logger("tests")
    logger.addHandler(log)
    return log, logger


def test_it_takes_what_logging_says(logged):
    log, logger = logged
    for i in range(5):
        logger.warning("step %d", i)
    assert [event.text for event in log] == ["step 2", "step 3", "step 4"]
    assert log[-1].level == "warning" and log[-1].source == logger.name
    assert [event.text for event in log[:2]] == ["step 2", "step 3"]
    assert log.dropped == 2
    log.setLevel("ERROR")
    logger.warning("not this")
    assert log[-1].text == "step 4"


def test_an_entry_keeps_no_tensor_alive(logged):
    log, logger = logged

    def fail() -> weakref.ref:
        psi = torch.zeros(3)
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            logger.exception("with %s", psi)
        return weakref.ref(psi)

    seen = fail()
    gc.collect()
    assert seen() is None
    assert "boom" in log[-1].text and "Traceback" in log[-1].text


def test_a_long_text_is_cut_and_says_so():
    log = al.EventLog()
    log.add("x" * 100_000)
    assert len(log[0].text) == 4000
    assert log[0].text.endswith("(100,000 characters)")


def test_many_threads_add():
    log = al.EventLog(10)
    threads = [
        threading.Thread(target=lambda: [log.add("x") for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(log.entries()) <= 10
    assert (log.total, log.dropped, len(log)) == (8000, 7990, 10)


def test_clear_counts_as_dropped():
    log = al.EventLog()
    log.add("a", "error")
    log.clear()
    assert (len(log), log.dropped, log.total) == (0, 1, 1)


def test_it_is_shown_escaped_the_newest_first():
    log = al.EventLog(2)
    for text in ("gone", "<first>", "second"):
        log.add(text)
    shown = log._repr_html_()
    assert "gone" not in shown and "<first>" not in shown
    assert shown.index("second") < shown.index("&lt;first&gt;")
    assert repr(log) == "EventLog(2 entries, 1 dropped)"
    assert str(log[0]).endswith("info     <first>")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: al.EventLog(0), ValueError, "max_entries: got 0"),
        (lambda: al.EventLog().add(3), TypeError, "text: got 3"),
        (lambda: al.EventLog().add("x", "loud"), ValueError, "level: got 'loud'"),
    ],
)
def test_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_listeners_hear_each_entry_until_they_leave():
    log, heard = al.EventLog(2), []
    leave = log.listen(lambda event: heard.append(event.text))
    for text in "abc":
        log.add(text)
    leave()
    leave()
    log.add("d")
    assert heard == ["a", "b", "c"]


def test_a_log_is_resized_and_keeps_the_newest():
    log = al.EventLog(5)
    for i in range(5):
        log.add(str(i))
    log.resize(2)
    log.add("5")
    assert [event.text for event in log] == ["4", "5"]
    assert log.dropped == 4
    with pytest.raises(ValueError, match="max_entries"):
        log.resize(0)
