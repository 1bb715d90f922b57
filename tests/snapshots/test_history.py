"""SimulationHistory: true pictures, bounded, and files that other programs open."""

import json
import math
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import atheria_lab as al
from atheria_lab.colours import table
from atheria_lab.memory import process
from atheria_lab.snapshots import exports
from atheria_lab.snapshots.area import area_mean
from atheria_lab.snapshots.retention import victim


def psi_of(rho):
    """A state of this density."""
    rho = torch.as_tensor(rho, dtype=torch.float64)
    return rho.sqrt().to(torch.complex128)[None, ..., None]


def overlap(a, b):
    """Weights of b old pixels in a new ones, by exact fractions."""
    weights = [[Fraction(0)] * b for _ in range(a)]
    for i in range(a):
        for j in range(b):
            inside = min(Fraction(i + 1, a), Fraction(j + 1, b)) - max(
                Fraction(i, a), Fraction(j, b)
            )
            weights[i][j] = max(Fraction(0), inside) * a
    return np.array(weights, dtype=float)


@given(st.integers(1, 23), st.integers(1, 23), st.data())
def test_area_mean_weighs_by_overlap(height, width, data):
    small = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    picture = torch.rand(height, width, dtype=torch.float64)
    got = area_mean(picture, *small).numpy()
    wanted = overlap(small[0], height) @ picture.numpy() @ overlap(small[1], width).T
    assert got.shape == small
    np.testing.assert_allclose(got, wanted, rtol=1e-13)
    assert math.isclose(got.mean(), picture.mean().item(), rel_tol=1e-12)


def test_nan_stays_where_it_is():
    picture = torch.ones(10, 7)
    picture[9, 0] = math.nan
    small = area_mean(picture, 4, 3)
    assert small.isnan().nonzero().tolist() == [[3, 0]]
    assert (small[:3] == 1).all()


def test_a_frame_says_what_the_state_is():
    history = al.SimulationHistory(side=8)
    psi = al.lattice.random((20, 30), 3, seed=1, batch=2, dtype=torch.complex128)
    frame = al.SimulationHistory(side=8, lattice=1).add(psi, 7)
    rho = al.lattice.density(psi)
    assert frame.step == 7 and frame.picture.dtype == np.float32
    np.testing.assert_allclose(frame.picture, area_mean(rho[1], 5, 8).numpy(), rtol=1e-6)
    own = rho[1].numpy()
    np.testing.assert_allclose(
        frame.statistics, [own.mean(), own.min(), own.max(), own.std(), own.sum() ** 0.5, 0]
    )
    history.add(psi, 7)
    assert not np.array_equal(history[0].picture, frame.picture)
    with pytest.raises(ValueError, match="read-only"):
        frame.picture[0] = 0


def test_a_run_that_blew_up_is_kept_as_it_is():
    history = al.SimulationHistory(side=4)
    rho = np.ones((8, 8))
    rho[0, 0] = np.nan
    frame = history.add(psi_of(rho), 0)
    assert frame.statistics.broken == 1
    assert np.isnan(frame.picture[0, 0]) and (frame.picture[1:] == 1).all()
    assert "img" in history._repr_html_()


@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from(["even", "newest"]))
@settings(deadline=None)
def test_it_is_bounded_and_keeps_what_it_says(most, count, keep):
    history, wanted = al.SimulationHistory(most, side=2, keep=keep), []
    for step in range(count):
        history.add(psi_of(np.full((4, 4), 1.0 + step)), 3 * step)
        wanted.append(3 * step)
        if len(wanted) > most:
            del wanted[victim(wanted, keep)]
    assert history.steps == wanted and history.seen == count
    assert len(history) <= most and history.nbytes == 16 * len(history)
    assert [frame.picture[0, 0] for frame in history] == [1 + step // 3 for step in wanted]
    if keep == "even" and most > 2 and count:
        assert history.steps[0] == 0 and history.steps[-1] == 3 * (count - 1)


def test_it_keeps_no_state_alive():
    import gc
    import weakref

    history, psi = al.SimulationHistory(), al.lattice.random(16, 2)
    history.add(psi, 0)
    seen = weakref.ref(psi)
    del psi
    gc.collect()
    assert seen() is None


@pytest.fixture
def history():
    law = al.laws.MLP(d_state=2, hidden=4)
    with al.Engine(law, al.lattice.gaussian((30, 51), 2), seed=3, gamma=0.25) as engine:
        history = al.SimulationHistory(20, side=17, about={"name": "a run"})
        for _ in range(25):
            engine.step(2)
            history.add(engine)
    return history


def facts(path):
    return json.loads(path.with_name(path.name + ".json").read_text())


def test_a_gif_has_every_frame_in_its_very_colours(history, tmp_path):
    path = history.to_gif(tmp_path / "run.gif", fps=30, scale=3)
    film = history._film({"scale": 3})
    with Image.open(path) as gif:
        assert gif.n_frames == 20 and gif.size == (51, 30) and gif.info["loop"] == 0
        total = 0
        for i, frame in enumerate(history):
            gif.seek(i)
            total += gif.info["duration"]
            wanted = table("sequential")[film.indices(frame)]
            assert np.array_equal(np.asarray(gif.convert("RGB")), wanted)
    assert total == round(20 * 100 / 30) * 10


@pytest.mark.parametrize("scale", [3, 4])
def test_an_mp4_has_every_frame(history, tmp_path, scale):
    import av

    path = history.to_mp4(tmp_path / "run.mp4", fps=12.5, scale=scale)
    film = history._film({"scale": scale})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", Fraction(25, 2))
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(pictures) == 20
    for frame, picture in zip(history, pictures, strict=True):
        wanted = table("sequential")[film.indices(frame)].astype(float)
        height, width, _ = wanted.shape
        assert picture.shape == (height + height % 2, width + width % 2, 3)
        assert np.abs(picture[:height, :width] - wanted).mean() < 8


def test_a_contact_sheet_runs_from_the_first_to_the_last(history, tmp_path):
    path = history.to_png(tmp_path / "run.png", count=7, columns=3, scale=4)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    film = history._film({"scale": 4})
    first, last = (table("sequential")[film.indices(history[i])] for i in (0, -1))
    height, width, _ = first.shape
    assert np.array_equal(pixels[10 : 10 + height, 10 : 10 + width, :3], first)
    row = 10 + 2 * (height + 30)
    assert np.array_equal(pixels[row : row + height, 10 : 10 + width, :3], last)
    assert len(facts(path)["steps"]) == 7
    assert facts(path)["steps"][0] == history.steps[0]


def test_npz_and_zarr_hold_the_numbers(history, tmp_path):
    zarr = pytest.importorskip("zarr")
    with np.load(history.to_npz(tmp_path / "run.npz"), allow_pickle=False) as arrays:
        arrays = dict(arrays)
    group = zarr.open_group(history.to_zarr(tmp_path / "run.zarr"), mode="r")
    assert group["picture"].metadata.dimension_names == ("step", "row", "column")
    assert group.attrs["engine"]["gamma"] == 0.25
    for read in (arrays, {name: group[name][:] for name in group.array_keys()}):
        assert np.array_equal(read["picture"], [frame.picture for frame in history])
        assert read["step"].tolist() == history.steps
        assert read["norm"].tolist() == [frame.statistics.norm for frame in history]
    with pytest.raises(FileExistsError, match=r"run\.zarr is there already"):
        history.to_zarr(tmp_path / "run.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "run.npz", "run.npz.json", "run.zarr", "run.zarr.json",
    ]  # fmt: skip


def test_the_json_beside_says_what_it_is_of(history, tmp_path):
    import hashlib

    path = history.to_gif(tmp_path / "deep" / "run.gif")
    said = facts(path)
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["engine"]["law"] == "MLP" and said["engine"]["seed"] == 3
    assert len(said["engine"]["law_fingerprint"]) == 64
    assert said["engine"]["noise"] == {"phase": 0.0, "sign": 0.0}
    assert said["limits"] == {"max_frames": 20, "side": 17, "keep": "even"}
    assert said["steps"] == history.steps and said["frames_seen"] == 25
    assert said["about"] == {"name": "a run"} and said["psi_shape"] == [1, 30, 51, 2]


@pytest.mark.parametrize("name", ["gif", "mp4", "png", "npz"])
def test_a_failed_export_leaves_what_was_there(history, tmp_path, monkeypatch, name):
    path = tmp_path / f"run.{name}"
    path.write_text("before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        getattr(history, f"to_{name}")(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda h, p: h.to_gif(p / "x.gif", fps=0), ValueError, "fps: got 0"),
        (lambda h, p: h.to_gif(p / "x.gif", cmap="jet"), ValueError, "name: got 'jet'"),
        (lambda h, p: h.to_gif(p / "x.gif", low=2, high=1), ValueError, "high: got 1"),
        (lambda h, p: h.to_npz(p), IsADirectoryError, "is a folder"),
        (lambda h, p: h.add(torch.zeros(3), 1), ValueError, "source: got torch.float32"),
        (lambda h, p: h.add("psi", 1), TypeError, "source: got 'psi'"),
        (lambda h, p: h.add(al.lattice.random(8, 2), 1), ValueError, "its psi is"),
        (lambda h, p: al.SimulationHistory(0), ValueError, "max_frames: got 0"),
        (lambda h, p: al.SimulationHistory(keep="odd"), ValueError, "keep: got 'odd'"),
        (lambda h, p: al.SimulationHistory(about={"x": {1}}), TypeError, "about: JSON"),
        (lambda h, p: al.SimulationHistory().to_npz(p / "x"), ValueError, "no frame"),
        (
            lambda h, p: al.SimulationHistory(lattice=1).add(al.lattice.random(8, 2), 0),
            ValueError,
            "lattice 1, psi's batch has 1",
        ),
    ],
)
def test_refused_in_words(history, tmp_path, call, error, words):
    with pytest.raises(error, match=words):
        call(history, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_engine_of_another_law_is_refused(history):
    law = al.laws.MLP(d_state=2, hidden=4)
    psi = al.lattice.gaussian((30, 51), 2)
    with (
        al.Engine(law, psi, seed=3, gamma=0.25) as other,
        pytest.raises(ValueError, match="an engine of another law_fingerprint"),
    ):
        history.add(other)
    history.clear()
    with al.Engine(law, psi) as other:
        history.add(other)
    assert len(history) == history.seen == 1


def test_it_is_shown(history):
    assert history._repr_html_().count("<img") == 12
    assert repr(history) == (
        "SimulationHistory(20 frames of 25, at most 20, steps 2 to 50, 10x17, 13.3 KiB)"
    )
    assert "img" not in al.SimulationHistory()._repr_html_()


class Watched(exports.Film):
    """Looks at the heap before each frame."""

    most = 0

    def indices(self, frame, **options):
        Watched.most = max(Watched.most, process.heap_in_use())
        return super().indices(frame, **options)


@pytest.mark.parametrize("name", ["gif", "mp4"])
def test_a_film_is_written_frame_by_frame(name, tmp_path):
    if process.heap_in_use() is None:
        pytest.skip("this C library does not say its heap")
    history = al.SimulationHistory(500)
    generator = torch.Generator().manual_seed(0)
    for step in range(500):
        history.add(psi_of(torch.rand(64, 64, generator=generator)), step)
    film, peaks = history._film({"scale": 2}), {}
    for count in (100, 100, 500):  # the first loads the encoder
        few = Watched(film.frames[:count], film.low, film.high, film.cmap, film.scale)
        Watched.most, before = 0, process.heap_in_use()
        getattr(exports, f"write_{name}")(tmp_path / f"film.{name}", few, 30.0)
        peaks[count] = Watched.most - before
    assert peaks[500] < peaks[100] + 200 * 128 * 128  # half of what 400 frames more are
