"""Results in memory and as files."""

import json
import math

import pytest

from atheria_lab.scale import ResultStore, SweepResult, SweepResults, points

SPACE = {"law": {"law": "MLP", "d_state": 2, "hidden": 3}, "size": 8, "steps": 6,
         "gamma": [0.0, 0.5], "seed": [0, 1]}  # fmt: skip


def result(point, loss=1.5, **changes):
    told = {"losses": (2.0, loss), "metrics": {"survival": (0.1, 0.2)}, "seconds": 0.25,
            "peak_bytes": 1000, "predicted_bytes": 1010, "declared_bytes": 5000,
            "plan": "StoreAll()", "attempts": 1}  # fmt: skip
    return SweepResult(point.given, point.fingerprint, **{**told, **changes})


@pytest.fixture
def four():
    return points(SPACE)


def test_a_stored_result_comes_back_and_nothing_else_lies_there(tmp_path, four):
    store = ResultStore(tmp_path / "made" / "here")
    assert store.read(four[0]) is None
    told = result(four[0], loss=math.nan)
    store.write(four[0], told)
    assert [path.name for path in store.directory.iterdir()] == [f"{four[0].fingerprint}.json"]
    back = store.read(four[0])
    assert math.isnan(back.loss)
    assert repr({**vars(back), "attempts": 1}) == repr(vars(told))
    assert store.read(four[1]) is None
    assert json.loads(store.path(four[0]).read_text())["point"] == four[0].facts


def test_a_file_under_another_points_name_counts_as_damaged(tmp_path, four):
    store = ResultStore(tmp_path)
    store.write(four[0], result(four[0]))
    store.path(four[1]).write_bytes(store.path(four[0]).read_bytes())
    with pytest.warns(RuntimeWarning, match="it is the result of another point"):
        assert store.read(four[1]) is None


def test_a_trainer_counts_only_where_it_is_asked_for(tmp_path, four):
    store = ResultStore(tmp_path)
    store.write(four[0], result(four[0]))
    assert store.read(four[0]).trainer is None
    assert store.read(four[0], trainer=True) is None
    kept = store.write(four[0], result(four[0]), b"weights")
    assert kept.trainer.read_bytes() == b"weights"
    assert store.read(four[0], trainer=True).trainer == kept.trainer


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:100], "it is no JSON"),
        (lambda text: "", "it is no JSON"),
        (lambda text: "[]", "it holds no result"),
        (lambda text: text.replace("1.5", "0.5"), "it does not match its checksum"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "it has format 9"),
    ],
)
def test_a_damaged_file_is_named_and_counts_as_none(tmp_path, four, damage, words):
    store = ResultStore(tmp_path)
    store.write(four[0], result(four[0]))
    path = store.path(four[0])
    path.write_text(damage(path.read_text()))
    with pytest.warns(RuntimeWarning, match=f"{path.name} is damaged: {words}"):
        assert store.read(four[0]) is None


def test_results_are_a_sequence_in_the_order_of_the_points(four):
    results = SweepResults(four)
    assert len(results) == 4 and results.done == []
    results.put(2, result(four[2], loss=3.0))
    results.put(0, result(four[0], loss=4.0))
    with pytest.raises(LookupError, match=r"gamma=0, seed=1\) has no result yet"):
        results[1]
    with pytest.raises(ValueError, match="has its result already"):
        results.put(0, result(four[0]))
    failed = result(four[1], losses=(), error="KilledWorker: <gone>")
    results.put(1, failed)
    results.put(3, result(four[3], loss=5.0))
    assert [each.point["seed"] for each in results] == [0, 1, 0, 1]
    assert [each.loss for each in results[::2]] == [4.0, 3.0]
    assert results[-1].loss == 5.0
    assert results.best() is results[2]
    assert results.errors == [failed]
    assert results.varied == ["gamma", "seed"]


def test_a_table_says_what_came_of_each_point(four):
    results = SweepResults(four)
    for place, point in enumerate(four[:3]):
        results.put(place, result(point, loss=3.0 - place))
    results.put(3, result(four[3], losses=(), error="RuntimeError: <b>gone</b>"))
    rows = results.table()
    assert [row["loss"] for row in rows] == [3.0, 2.0, 1.0, None]
    assert rows[1]["gamma"] == 0.0 and rows[1]["seed"] == 1 and rows[1]["peak_bytes"] == 1000
    assert rows[3]["error"] == "RuntimeError: <b>gone</b>"
    page = results._repr_html_()
    assert page.count("<tr") == 5
    assert "&lt;b&gt;gone" in page and "<b>" not in page
    assert "4 of 4 points, 1 failed" in page
    assert repr(results).startswith("SweepResults(4 of 4 points, 1 failed, the best: SweepResult(")


def test_a_table_of_many_points_stays_short():
    many = points({**SPACE, "seed": range(150)})
    results = SweepResults(many)
    for place, point in enumerate(many):
        results.put(place, result(point))
    assert results._repr_html_().count("<tr") == 201
    assert "the first 200 of them shown" in results._repr_html_()
    assert len(results.table()) == 300
