"""The inline picture of curves."""

import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory.chart import Line, Shade, chart

SIZES = st.integers(0, 2**50)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), SIZES, SIZES), max_size=20),
    st.none() | st.integers(1, 2**50),
)
def test_whatever_the_points_it_is_a_picture_within_its_frame(points, limit):
    points = [(x, min(a, b), max(a, b)) for x, a, b in sorted(points)]
    page = chart([Line("<a> & b", points)], x_label="<s>", limit=limit)
    svg = ElementTree.fromstring(page[: page.index("</svg>") + 6])
    _, _, width, height = map(float, svg.get("viewBox").split())
    line = svg.find("polyline")
    for pair in line.get("points").split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height
    assert "&lt;a&gt; &amp; b" in page


def test_shades_lie_behind_and_have_a_legend():
    page = chart(
        [Line("a", [(0, 1, 2), (10, 3, 4)])],
        shades=[Shade(0, 5, "#123456")],
        legend=[("phase", "#123456")],
    )
    assert page.index("<rect") < page.index("<polyline")
    assert "phase" in page
