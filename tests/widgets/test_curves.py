"""Curves without a browser: what travels, and what is refused."""

import ipywidgets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.widgets.curves import Curves, Line, palette


@pytest.fixture
def curves():
    curves = Curves("loss", per_second=0)
    curves.sent = []
    curves.send = lambda content, buffers=None: curves.sent.append((content, buffers))
    curves._handle_custom_msg({"kind": "hello"}, [])
    yield curves
    curves.close()


def numbers(message):
    content, buffers = message
    flat = np.frombuffer(buffers[0], np.float64)
    return np.split(flat, np.cumsum([4 * length for length in content["lengths"]])[:-1])


def test_a_message_holds_the_whole_picture(curves):
    curves.show({"a": Line.of([0, 1, 2], [3, 4, 5]), "b": Line.of([7], [8], dashed=True)},
                {"budget": 6})  # fmt: skip
    content = curves.sent[0][0]
    assert content["names"] == ["a", "b"]
    assert content["dashed"] == [False, True]
    assert content["limits"][0][:2] == ["budget", 6.0]
    first, second = numbers(curves.sent[0])
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]
    assert second.tolist() == [7, 8, 8, 8]


@given(st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), min_size=1, max_size=5))
def test_stacked_curves_stand_on_each_other(rows):
    curves = Curves(stacked=True, per_second=0)
    curves.sent = []
    curves.send = lambda content, buffers=None: curves.sent.append((content, buffers))
    curves._handle_custom_msg({"kind": "hello"}, [])
    curves.show({str(i): Line.of([0, 1, 2], row) for i, row in enumerate(rows)})
    tops = [part[3:6].tolist() for part in numbers(curves.sent[0])]
    assert tops == np.cumsum(rows, axis=0).tolist()
    curves.close()


def test_no_curves_at_all_are_a_picture_too(curves):
    curves.show({})
    assert curves.sent[0][0]["names"] == []


def test_arrays_that_do_not_fit_are_refused(curves):
    with pytest.raises(ValueError, match="'a' has arrays of"):
        curves.show({"a": Line(*(np.zeros(n) for n in (1, 2, 2, 2)))})
    with pytest.raises(ValueError, match="at most 2,000"):
        curves.show({"a": Line.of(range(3000), range(3000))})


def test_colours_of_the_palette_differ():
    assert len(set(palette(12))) == 12
    assert palette(3) == palette(12)[:3]


def test_closing_frees_every_widget():
    before = set(ipywidgets.widgets.widget._instances)
    Curves().close()
    assert set(ipywidgets.widgets.widget._instances) == before
