"""LatticeView without a browser: what travels, what is held, what is freed."""

import weakref

import ipywidgets
import pytest

from atheria_lab import lattice
from atheria_lab.widgets import LatticeView, Stroke


@pytest.fixture
def view():
    view = LatticeView(per_second=0)
    view.sent = []
    view.send = lambda content, buffers=None: view.sent.append((content, buffers))
    yield view
    view.close()


def receive(view, **content):
    view._handle_custom_msg(content, [])


def test_frames_travel_as_binary_messages_never_as_state(view):
    receive(view, kind="hello")
    before = set(view.get_state())
    view.show(lattice.random(16, 2), 7)
    ((content, buffers),) = view.sent
    assert content["step"] == 7
    assert content["shape"] == [16, 16]
    assert [len(buffer) for buffer in buffers] == [256]
    assert set(view.get_state()) == before
    assert (
        sum(len(str(value)) for key, value in view.get_state().items() if key[:4] != "_esm") < 2e4
    )


def test_the_range_of_a_live_picture_shrinks_slowly(view):
    receive(view, kind="hello")
    psi = lattice.plane_wave(4, 1)
    for scale in (2.0, 1.0):
        view.show(scale * psi)
        receive(view, kind="ack", id=len(view.sent))
    tops = [content["high"] for content, _ in view.sent]
    assert tops[0] == pytest.approx(4)
    assert 3.5 < tops[1] < 4


def test_choosing_another_view_shows_the_state_again(view):
    receive(view, kind="hello")
    view.show(lattice.random(8, 2))
    view.view = "phase"
    view.channel = 1
    assert [content["colours"] for content, _ in view.sent] == ["sequential", "phase"]
    receive(view, kind="ack", id=1)
    assert view.sent[-1][0]["id"] == 3


def test_the_pointer_reads_a_cell(view):
    psi = lattice.zeros(4, 2)
    psi[0, 1, 2] = 0.5 + 0.25j
    view.show(psi)
    receive(view, kind="probe", cell=[1, 2])
    text = view.sent[-1][0]["text"]
    assert text == "(1, 2)  density 0.625  ψ0 +0.5+0.25i"
    receive(view, kind="probe", cell=[9, 9])
    assert len(view.sent) == 1


def test_strokes_are_handed_on():
    strokes = []
    view = LatticeView(on_draw=strokes.append)
    receive(view, kind="draw", tool="damage", cells=[[1, 2], [3, 4]], radius=2)
    assert strokes == [Stroke("damage", [(1, 2), (3, 4)], 2)]
    view.close()


def test_it_holds_one_state_and_lets_go_of_it(view):
    first, second = lattice.random(8, 2), lattice.random(8, 2, seed=1)
    held = weakref.ref(first.untyped_storage())
    view.show(first)
    view.show(second)
    del first
    assert held() is None
    held = weakref.ref(second.untyped_storage())
    del second
    assert held() is not None
    view.clear()
    assert held() is None


def test_a_state_with_fewer_channels_is_shown_from_the_last_one(view):
    view.channel = 0
    view.show(lattice.random(8, 4))
    view.channel = 3
    view.show(lattice.random(8, 2))
    assert view.channel == 1


def test_readers_without_widgets_get_a_png():
    view = LatticeView(lattice.random(8, 2))
    data, _ = view._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    view.close()


def test_closing_frees_every_widget():
    before = set(ipywidgets.widgets.widget._instances)
    view = LatticeView(lattice.random(8, 2))
    view.close()
    view.close()
    assert not view.show(lattice.random(8, 2))
    assert set(ipywidgets.widgets.widget._instances) == before
