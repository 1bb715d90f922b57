"""The trainer's smaller promises: what it reports, shows, refuses and lets go."""

import gc

import numpy as np
import pytest
import torch
from small import small_law

import atheria_lab as al
from atheria_lab.memory import track_peak
from atheria_lab.noise import Noise, Ramp
from atheria_lab.training import comparison
from atheria_lab.training.losses import find_loss


def make(law=None, **settings):
    settings = {"size": 4, "steps": 6, "save_at": al.SaveAt.at_most(2), **settings}
    return al.Trainer(law if law is not None else small_law("MLP"), **settings)


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.law.parameters()])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"law": "MLP"}, r"law: got 'MLP'; it takes a torch\.nn\.Module"),
        ({"save_at": 10}, r"save_at: got 10; it takes a SaveAt"),
        ({"noise": 0.1}, r"noise: got 0\.1; it takes a Noise or a Ramp"),
        ({"plan": "Binomial"}, r"plan: got 'Binomial'; it takes one of atheria_lab\.plans"),
        ({"initial": 3}, r"initial: got 3; it takes a function"),
        ({"steps": 2.5}, r"steps: got 2\.5"),
        ({"budget": 1.5}, r"budget: got 1\.5"),
        ({"gamma": "much"}, r"gamma: got 'much'"),
        ({"history": True}, r"history: got True"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_anything_is_trained(settings, words):
    with pytest.raises(TypeError, match=words):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "tpu"}, r"device: got 'tpu'; it takes cpu, cuda"),
        ({"device": "cuda:99"}, r"device: got 'cuda:99', but torch finds \d+ CUDA devices"),
        ({"gamma": 1.5}, r"gamma: got 1\.5"),
        ({"initial": lambda seed: np.zeros((1, 4, 4, 2))}, r"initial: got ndarray; .* returns psi"),
        ({"initial": lambda seed: None}, r"initial: got None; .* returns psi"),
        ({"loss": lambda t: (t[-1].abs().sum(), {}, 3)}, r"loss: it returned a tuple of 3"),
        ({"loss": lambda t: (t[-1].abs().sum(), [1])}, r"loss: .* and a dict of metrics"),
        ({"loss": lambda t: (t[-1].abs().sum(), {"a": t[-1]})}, r"loss: its metric 'a' is no"),
        ({"loss": lambda t: (t[-1].abs().sum(), {"a": "b"})}, r"loss: its metric 'a' is no"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(settings, words):
    with pytest.raises((TypeError, ValueError), match=f"^{words}"):
        make(**settings).train_episode()


def test_a_metric_may_be_a_plain_number():
    trainer = make(loss=lambda t: (t[-1].real.mean(), {"count": 3, "part": 0.5}))
    assert trainer.train_episode().metrics == {"count": 3, "part": 0.5}


@pytest.mark.parametrize("episodes", [0, -1])
def test_no_episodes(episodes):
    with pytest.raises(ValueError, match=f"episodes: got {episodes}"):
        make().train(episodes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_initial_state_that_is_not_finite_is_refused(bad):
    trainer = make(initial=lambda seed: al.lattice.random(4, 2, seed=seed) * bad)
    with pytest.raises(ValueError, match="psi: it holds NaN or infinity"):
        trainer.train_episode()


def test_energy_is_refused_wherever_it_is_constant():
    for norm in ("lattice", "cell", None):
        with pytest.raises(ValueError, match=r'loss: "energy" is constant.*Take norm="none"'):
            find_loss("energy", norm, small_law("MLP"))
    with pytest.raises(ValueError, match="constant under a unitary law"):
        find_loss("energy", "none", small_law("Brickwork"))
    loss = find_loss("energy", "none", small_law("MLP"))
    assert make(loss="energy", norm="none").train_episode().metrics.keys() == {"energy"}
    assert loss is al.training.LOSSES["energy"]


def test_the_same_seed_is_the_same_run_and_another_is_not():
    def run(seed):
        trainer = make(seed=seed, noise=Noise(phase=0.3), lr=1e-2)
        losses = [report.loss for report in trainer.train(3, progress=False)]
        return losses, weights(trainer)

    (losses, trained), (again, trained_again), (others, _) = run(1), run(1), run(2)
    assert losses == again
    assert torch.equal(trained, trained_again)
    assert set(losses).isdisjoint(others)
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    ("measure", "told"), [("always", [1, 1, 1]), ("first", [1, 0, 0]), ("never", [0, 0, 0])]
)
def test_the_peak_is_measured_as_asked(measure, told):
    reports = make(measure=measure).train(3, progress=False)
    assert [report.peak_bytes is not None for report in reports] == [bool(t) for t in told]
    assert all(report.predicted_bytes > 0 for report in reports)


@pytest.mark.parametrize("loss", ["evolutionary", "structure", "energy"])
def test_the_loss_with_its_metrics_is_in_the_budget(loss):
    """To the byte, where the rollout is recomputed."""
    law = small_law("Conv")
    trainer = make(law, loss=loss, norm="none", size=8, steps=20, plan=al.plans.Binomial(3))
    report = trainer.train_episode()
    assert report.peak_bytes == report.predicted_bytes


def test_a_recurrent_law_that_is_reset_stays_within_its_budget():
    law = small_law("ConvLSTMUNet")
    for reset_every in (1, 3, 7):
        roomy = make(law, size=8, steps=30, reset_every=reset_every)
        budget = roomy.plan_rollout().smallest_bytes + 5000
        trainer = make(law, size=8, steps=30, reset_every=reset_every, budget=budget)
        report = trainer.train_episode()
        assert report.peak_bytes <= report.predicted_bytes <= budget


def test_a_budget_too_small_trains_nothing():
    trainer = make(budget=3000)
    before = weights(trainer)
    with pytest.raises(al.BudgetError):
        trainer.train_episode()
    assert torch.equal(weights(trainer), before)
    assert trainer.episode == 0
    again = make(budget=make().plan_rollout().smallest_bytes)
    assert not again.train_episode().skipped


def test_watchers_and_callbacks():
    seen, told = [], []
    trainer = make(save_at=al.SaveAt.indices([0, 2, 6]))
    trainer.train(2, progress=False, watch=seen.append, on_episode=told.append)
    assert [list(trajectory.indices) for trajectory in seen] == [[0, 2, 6]] * 2
    assert not any(state.requires_grad for state in seen[0])
    assert len(seen[0]) == 3
    assert seen[0][-1] is list(seen[0])[2]
    assert told == list(trainer.reports)


def test_a_progress_bar_shows_the_loss(capsys):
    [report] = make().train(1)
    shown = capsys.readouterr().err
    assert "1/1" in shown
    assert f"loss {report.loss:.4g}" in shown


def test_a_report_reads_well():
    trainer = make(loss=lambda trajectory: (trajectory[-1].abs().mean(), {"a<b": torch.ones(())}))
    report = trainer.train_episode()
    assert repr(report).startswith(f"EpisodeReport(episode: 0, loss: {report.loss:.6g}, a<b: 1, ")
    assert "measured peak" in repr(report)
    assert "<th style='text-align:left'>a&lt;b</th><td>1</td>" in report._repr_html_()
    assert repr(trainer).startswith("Trainer(MLP, size=4, steps=6, no budget, episode=1, ")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["forward", "backward", "loss", "watch"])
def test_an_error_that_is_held_on_to_holds_nothing(error, place):
    """As a notebook does, which keeps the last exception with its traceback."""
    law = small_law("Conv")
    made, fatal, forward = [], {"forward": 4, "backward": 15}.get(place, -1), law.forward

    def fail(x):
        made.append(1)
        if len(made) == fatal:
            raise error("on purpose")
        return forward(x)

    def loss(trajectory):
        if place == "loss" and trajectory[0].requires_grad and made:
            raise error("on purpose")
        return trajectory[-1].abs().mean()

    def watch(trajectory):
        if place == "watch" and made:
            raise error("on purpose")

    trainer = make(law, plan=al.plans.Binomial(2), loss=loss, steps=10)
    trainer.train_episode()
    law.forward = fail
    before = weights(trainer)
    gc.collect()
    with track_peak() as peak:
        try:
            trainer.train_episode(watch)
        except error as held:
            gc.collect()
            assert peak.live_bytes == 0, held
        else:
            pytest.fail("nothing was raised")
    place = "nowhere"
    assert torch.equal(weights(trainer), before)
    assert trainer.episode == 1
    assert not trainer.train_episode(watch).skipped


def test_every_setting_comes_back_from_the_file(tmp_path):
    """Also where its whole numbers are numpy's."""
    trainer = make(
        small_law("Conv"),
        size=(np.int64(4), 6),
        steps=np.int32(7),
        batch=np.int64(2),
        save_at=al.SaveAt.indices(np.array([0, 3, 7])),
        noise=Ramp(Noise(phase=np.float32(0.2)), np.int64(3), start=Noise(sign=0.1)),
        plan=al.plans.Tiered(device=np.int64(2), host=1),
        budget=np.int64(2**20),
        loss="structure",
        gamma=np.float32(0.2),
        norm="cell",
        schedule="cosine",
        clip=np.float64(0.5),
        weight_decay=0.1,
        seed=np.uint64(2**63 + 4),
        history=7,
        measure="always",
    )
    trainer.train(2, progress=False)
    trainer.save(tmp_path / "trainer.safetensors")
    loaded = al.Trainer.load(tmp_path / "trainer.safetensors")
    assert (loaded.plan, loaded.episode, loaded.steps) == (trainer.plan, 2, 7)
    a, b = trainer.train_episode(), loaded.train_episode()
    assert (a.loss, a.metrics, a.gradient_norm) == (b.loss, b.metrics, b.gradient_norm)
    assert (a.predicted_bytes, a.peak_bytes) == (b.predicted_bytes, b.peak_bytes)
    assert torch.equal(weights(trainer), weights(loaded))


def test_a_law_of_ones_own_and_an_initial_state_of_ones_own_are_asked_for(tmp_path):
    def initial(seed):
        return al.lattice.gaussian(4, 1, width=0.1 + seed % 10 / 100)

    path = tmp_path / "own.safetensors"
    whole = make(torch.nn.Conv2d(2, 2, 1), initial=initial, lr=1e-2)
    half = make(torch.nn.Conv2d(2, 2, 1), initial=initial, lr=1e-2)
    half.law.load_state_dict(whole.law.state_dict())
    whole.train(3, progress=False)
    half.train(1, progress=False)
    half.save(path)
    with pytest.raises(ValueError, match=r"law: .*own\.safetensors holds a law of your own"):
        al.Trainer.load(path)
    with pytest.raises(ValueError, match=r"law: the weights in .*own\.safetensors are of another"):
        al.Trainer.load(path, law=torch.nn.Conv2d(4, 2, 1), initial=initial)
    with pytest.raises(TypeError, match="law: got 3; it takes a torch.nn.Module"):
        al.Trainer.load(path, law=3, initial=initial)
    law = torch.nn.Conv2d(2, 2, 1)
    with pytest.raises(ValueError, match="initial: .*trained with a function; pass it"):
        al.Trainer.load(path, law=law)
    rest = al.Trainer.load(path, law=law, initial=initial)
    rest.train(2, progress=False)
    assert torch.equal(weights(rest), weights(whole))


def test_many_episodes_end_with_the_memory_that_few_ended_with():
    trainer = make(history=5, measure="never")
    trainer.train(10, progress=False)
    with track_peak() as peak:
        trainer.train(5, progress=False)
        gc.collect()
        few = peak.live_bytes
        trainer.train(40, progress=False)
        gc.collect()
    assert peak.live_bytes == few
    assert len(trainer.reports) == 5


def test_the_comparison_tells_the_lesson():
    """Thinning psi_history saves little; a plan saves much; and what is told is so."""
    law = al.laws.MLP(2, hidden=16)
    trainer = make(law, size=8, steps=60, save_at=al.SaveAt.at_most(3))
    plan = al.plans.Binomial(4)
    rows = comparison.compare(trainer.job(), plan)
    everything, thinned, planned = (row.predicted_bytes for row in rows)
    assert 0.8 * everything < thinned < everything
    assert planned < thinned / 5
    shown = []
    before = weights(trainer)
    measured = comparison.measure(rows, trainer, plan, room=2 * everything, on_row=shown.append)
    for row in measured:
        assert row.measured_bytes == pytest.approx(row.predicted_bytes, rel=0.05)
        assert row.measured_bytes <= row.predicted_bytes
    assert len(shown) == 3
    assert torch.equal(weights(trainer), before)
    assert trainer.episode == 0
    assert repr(measured[2]).startswith("Binomial(slots=4): predicted ")
    # What there is no room for is not tried.
    tried = comparison.measure(rows, trainer, plan, room=planned)
    assert [row.measured_bytes is None for row in tried] == [True, True, False]
