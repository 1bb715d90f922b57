"""The timeline of an episode: phases, predicted over measured, and its exports."""

import json

import pytest

import atheria_lab as al
from atheria_lab import cli, plans
from atheria_lab.training.timeline import points


def trainer(**options):
    return al.Trainer(
        al.laws.MLP(2, hidden=4), 16, 20, save_at=al.SaveAt.at_most(2), measure="never", **options
    )


def test_it_trains_an_episode_and_sees_every_phase_of_it():
    one, two = trainer(plan=plans.Binomial(3)), trainer(plan=plans.Binomial(3))
    two.law.load_state_dict(one.law.state_dict())
    timeline, report = one.timeline(), two.train_episode()
    assert one.episode == 1
    assert one.reports[0].loss == report.loss
    names = [name for name, _, _ in timeline.phases()]
    assert names[:3] == ["recomputed segment", "forward", "loss"]
    assert {"steps made again", "backward", "optimizer step"} <= set(names)
    ends = [end for _, _, end in timeline.phases()]
    starts = [start for _, start, _ in timeline.phases()]
    assert starts == [0, *ends[:-1]]
    backward = sum(end - start for name, start, end in timeline.phases() if name == "backward")
    assert backward == 20


@pytest.mark.parametrize(
    "plan", [plans.StoreAll(), plans.Segmented(4), plans.Binomial(2)], ids=repr
)
def test_the_prediction_lies_on_what_happened(plan):
    timeline = trainer(plan=plan).timeline()
    assert timeline.predicted_bytes == pytest.approx(timeline.peak_bytes, rel=0.05)
    assert len(timeline.measured) == len(timeline.predicted) + 1  # the optimizer's step
    for predicted, measured in zip(timeline.predicted, timeline.measured, strict=False):
        assert predicted.owner == measured.owner
        assert predicted.peak == pytest.approx(measured.peak, abs=0.15 * timeline.peak_bytes)


def test_it_is_saved_as_json_and_draws_itself(tmp_path):
    timeline = trainer(budget="60 KiB").timeline()
    timeline.save(tmp_path / "episode.json")
    facts = json.loads((tmp_path / "episode.json").read_text())
    assert facts["plan"] == repr(timeline.plan)
    assert facts["budget"] == 60 * 1024
    assert max(span[2] for span in facts["measured"]) == facts["peak_bytes"] <= 60 * 1024
    assert len(facts["predicted"]) == len(timeline.predicted)
    page = timeline._repr_html_()
    assert page.startswith("<svg") and page.count("<polyline") == 2
    assert "steps made again" in page
    assert repr(timeline).startswith(f"Timeline({timeline.plan!r}, ")
    assert len(points(timeline.predicted * 1000)) <= 1000


@pytest.mark.parametrize("suffix", ["png", "svg", "json"])
def test_a_shell_draws_it(suffix, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"episode.{suffix}"
    options = ["--size", "8", "--steps", "12", "--d-state", "2", "--hidden", "3"]
    assert cli.main(["timeline", str(path), *options]) == 0
    start = {"png": b"\x89PNG", "svg": b"<?xml", "json": b"{"}[suffix]
    assert path.read_bytes().startswith(start)
    assert "predicted peak" in capsys.readouterr().out
