"""SimulationHistory: what a run looked like, in constant memory."""

from __future__ import annotations

import base64
import html
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from atheria_lab._checks import instance, integer, number, one_of
from atheria_lab.colours import table
from atheria_lab.engine import Engine
from atheria_lab.lattice import density
from atheria_lab.memory import format_size
from atheria_lab.snapshots import exports
from atheria_lab.snapshots.area import area_mean
from atheria_lab.snapshots.png import indexed_png
from atheria_lab.snapshots.retention import KEEPS, Keep, victim


class Statistics(NamedTuple):
    """What a frame says of the whole density, before it was made small.

    Attributes:
        mean: of the density over the cells.
        low: its least.
        high: its most.
        deviation: its standard deviation.
        norm: the length of psi, the root of the density's sum.
        broken: cells whose density is NaN or infinite; where there is one, the others are NaN or
            infinite too.
    """

    mean: float
    low: float
    high: float
    deviation: float
    norm: float
    broken: int


class HistoryFrame(NamedTuple):
    """One frame of a history.

    Attributes:
        step: steps done.
        picture: the density, float32 ``[height, width]``, averaged down; read-only.
        statistics: of the whole density.
    """

    step: int
    picture: np.ndarray
    statistics: Statistics


class SimulationHistory:
    """At most so many frames of a run: a small picture of the density and its statistics each.

    Never psi itself: 500 frames of 64x64 are 8 MiB, whatever the lattice, the channels and the
    length of the run. For whole states there is :class:`SnapshotStore`. One thread may add while
    others read and export. ::

        history = al.SimulationHistory()
        for _ in range(1000):
            engine.step(100)
            history.add(engine)
        history.to_mp4("run.mp4")
        history  # in a notebook: the frames

    Every export is written beside its place and moved in, frame by frame, so it needs the memory
    of one frame; ``run.mp4.json`` beside it says seed, law, limits and steps.

    Args:
        max_frames: at least 1.
        side: a picture has at most so many cells along its longer side; larger lattices are
            averaged down by area, smaller ones stay as they are.
        keep: past ``max_frames``, "even": frames are thinned evenly over the run, the first and
            the last stay; "newest": the oldest goes.
        lattice: which of psi's batch.
        about: words or numbers of your own for the JSON beside exports.

    Attributes:
        seen: how many frames were ever added.
    """

    def __init__(
        self,
        max_frames: int = 500,
        *,
        side: int = 64,
        keep: Keep = "even",
        lattice: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.max_frames = integer("max_frames", max_frames)
        self.side = integer("side", side)
        one_of("keep", keep, KEEPS)
        self.keep: Keep = keep
        self.lattice = integer("lattice", lattice, least=0)
        self.about = dict(about or {})
        try:
            json.dumps(self.about)
        except (TypeError, ValueError) as error:
            raise TypeError(f"about: JSON cannot hold it ({error}).") from None
        self.seen = 0
        self._frames: list[HistoryFrame] = []
        self._shape: tuple[int, ...] | None = None
        self._settings: dict[str, Any] | None = None
        self._lock = threading.Lock()

    @overload
    def add(self, source: Engine) -> HistoryFrame: ...

    @overload
    def add(self, source: Tensor, step: int) -> HistoryFrame: ...

    @torch.no_grad()
    def add(self, source: Engine | Tensor, step: int | None = None) -> HistoryFrame:
        """Take a picture now. NaN is no error: a run that blew up is worth seeing.

        Args:
            source: an engine, or psi ``[B, H, W, d_state]`` on any device.
            step: steps done, where psi is given.

        Returns:
            The new frame.

        Raises:
            TypeError: something else.
            ValueError: another lattice or law than the frames before, or no such lattice in the
                batch.
        """
        settings = None
        if isinstance(source, Engine):
            if step is not None:
                raise ValueError("step: got one with an engine, which knows its own; leave it out.")
            psi, step, settings = source.psi, source.steps_done, source.settings()
        else:
            psi = source
            instance("source", psi, Tensor, "an Engine or psi, a complex tensor")
            step = integer("step", step, least=0)
        if psi.dim() != 4 or not psi.is_complex() or psi.numel() == 0:
            raise ValueError(
                f"source: got {psi.dtype} {tuple(psi.shape)}; it takes complex "
                "[batch, height, width, d_state]."
            )
        self._check_fits(psi, settings)
        rho = density(psi[self.lattice : self.lattice + 1].detach())[0]
        shrink = max(1.0, max(rho.shape) / self.side)
        sides = [max(1, round(cells / shrink)) for cells in rho.shape]
        picture = area_mean(rho, *sides).to("cpu", torch.float32, copy=True).numpy()
        picture.flags.writeable = False
        frame = HistoryFrame(step, picture, _statistics(rho))
        with self._lock:
            self._shape, self._settings = tuple(psi.shape), settings or self._settings
            self._frames.append(frame)
            self.seen += 1
            if len(self._frames) > self.max_frames:
                del self._frames[victim([f.step for f in self._frames], self.keep)]
        return frame

    def clear(self) -> None:
        """Forget all frames, and of which lattice and law they were."""
        with self._lock:
            self._frames, self._shape, self._settings, self.seen = [], None, None, 0

    @property
    def steps(self) -> list[int]:
        """Steps done of each frame."""
        return [frame.step for frame in self.frames()]

    @property
    def nbytes(self) -> int:
        """Bytes of its pictures."""
        return sum(frame.picture.nbytes for frame in self.frames())

    def frames(self) -> list[HistoryFrame]:
        """All frames as of now, in the order they came; nothing is copied."""
        with self._lock:
            return list(self._frames)

    def range(self) -> tuple[float, float]:
        """The least and the most of all pictures, NaN and infinity aside; 0 and 1 without any."""
        lows, highs = [], []
        for frame in self.frames():
            finite = frame.picture[np.isfinite(frame.picture)]
            if finite.size:
                lows.append(float(finite.min()))
                highs.append(float(finite.max()))
        return (min(lows), max(highs)) if lows else (0.0, 1.0)

    def to_gif(self, path: str | Path, *, fps: float = 20.0, **colours: Any) -> Path:
        """A GIF that loops, of exactly the colour map's 256 colours.

        Args:
            path: what is there is replaced.
            fps: frames a second, at most 50: browsers slow faster ones down.
            **colours: ``low``, ``high``: densities of the first and the last colour (by default
                the range of all pictures); ``cmap``: see :func:`atheria_lab.colours.table`;
                ``scale``: screen pixels of a cell (by default so that the picture has about 320).

        Raises:
            ImportError: Pillow is missing.
            ValueError: there is no frame, or an argument is out of range.
            OSError: as the file system says it; what was at ``path`` is untouched.
        """
        fps = number("fps", fps, least=0.1, most=50.0)
        film = self._film(colours)
        return self._export(path, film, exports.write_gif, {"fps": fps}, fps)

    def to_mp4(self, path: str | Path, *, fps: float = 30.0, **colours: Any) -> Path:
        """An H.264 film, which every browser plays.

        Args:
            path: what is there is replaced.
            fps: frames a second, 0.1 to 240.
            **colours: as for :meth:`to_gif`.

        Raises:
            ImportError: PyAV is missing.
            ValueError: there is no frame, or an argument is out of range.
            OSError: as the file system says it; what was at ``path`` is untouched.
        """
        fps = number("fps", fps, least=0.1, most=240.0)
        film = self._film(colours)
        return self._export(path, film, exports.write_mp4, {"fps": fps}, fps)

    def to_png(
        self, path: str | Path, *, count: int = 24, columns: int = 6, **colours: Any
    ) -> Path:
        """A contact sheet: frames spread evenly from the first to the last, with their steps.

        Args:
            path: what is there is replaced.
            count: frames on it, at most.
            columns: frames in a row, at most.
            **colours: as for :meth:`to_gif`; ``scale`` makes frames of about 128 pixels.

        Raises:
            ImportError: Pillow is missing.
            ValueError: there is no frame, or an argument is out of range.
            OSError: as the file system says it; what was at ``path`` is untouched.
        """
        count, columns = integer("count", count), integer("columns", columns)
        film = self._film({"pixels": 128, **colours}).thinned(count)
        return self._export(path, film, exports.write_sheet, {}, columns)

    def to_npz(self, path: str | Path) -> Path:
        """Numpy's own: ``picture`` float32 ``[frame, row, column]``, ``step``, and each statistic.

        Args:
            path: what is there is replaced. ``numpy.load`` opens it, with ``allow_pickle=False``.

        Raises:
            ValueError: there is no frame.
            OSError: as the file system says it; what was at ``path`` is untouched.
        """
        return self._export(path, self._film({}), exports.write_npz, {})

    def to_zarr(self, path: str | Path) -> Path:
        """A zarr v3 group with named axes (step, row, column), which xarray and others open.

        Args:
            path: a new folder; its JSON lies beside it, and in the group's attributes.

        Raises:
            ImportError: zarr is missing.
            FileExistsError: there is something at ``path``.
            ValueError: there is no frame.
            OSError: as the file system says it; nothing is left behind.
        """
        path, film = Path(path), self._film({})
        facts = self._facts(film)
        exports.write_zarr(path, film, facts)
        exports.write_facts(path, facts)
        return path

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[HistoryFrame]:
        return iter(self.frames())

    @overload
    def __getitem__(self, index: int) -> HistoryFrame: ...

    @overload
    def __getitem__(self, index: slice) -> list[HistoryFrame]: ...

    def __getitem__(self, index: int | slice) -> HistoryFrame | list[HistoryFrame]:
        return self.frames()[index]

    def __repr__(self) -> str:
        frames = self.frames()
        parts = [f"{len(frames)} frames of {self.seen:,}, at most {self.max_frames}"]
        if frames:
            shape = "x".join(map(str, frames[0].picture.shape))
            parts += [f"steps {frames[0].step:,} to {frames[-1].step:,}", shape]
            parts += [format_size(self.nbytes)]
        return f"SimulationHistory({', '.join(parts)})"

    def _repr_html_(self) -> str:
        caption = f"<code>{html.escape(repr(self))}</code>"
        if not self._frames:
            return caption
        film = self._film({}).thinned(12)
        cells = []
        for frame in film.frames:
            data = indexed_png(film.indices(frame, scale=1), table(film.cmap))
            source = base64.b64encode(data).decode()
            cells.append(
                "<figure style='display:inline-block;margin:2px;text-align:center'>"
                f"<img src='data:image/png;base64,{source}' alt='step {frame.step}' "
                "style='height:88px;image-rendering:pixelated'>"
                f"<figcaption style='font-size:75%'>{frame.step:,}</figcaption></figure>"
            )
        return f"<div>{''.join(cells)}</div>{caption}"

    def _check_fits(self, psi: Tensor, settings: dict[str, Any] | None) -> None:
        shape = tuple(psi.shape)
        if self.lattice >= shape[0]:
            raise ValueError(
                f"lattice: this history pictures lattice {self.lattice}, psi's batch has "
                f"{shape[0]}; it takes 0 to {shape[0] - 1}."
            )
        if self._shape is not None and shape != self._shape:
            raise ValueError(
                f"source: its psi is {shape}, that of the frames before {self._shape}; clear() "
                "this history or make a new one."
            )
        if settings and self._settings and settings != self._settings:
            names = [name for name, value in settings.items() if self._settings[name] != value]
            raise ValueError(
                f"source: an engine of another {', '.join(names)} than the frames before; clear() "
                "this history or make a new one."
            )

    def _film(self, colours: dict[str, Any]) -> exports.Film:
        frames = self.frames()
        if not frames:
            raise ValueError("history: it holds no frame to export; add(engine) first.")
        low, high = self.range()
        return exports.film(frames, **{"low": min(0.0, low), "high": high, **colours})

    def _facts(self, film: exports.Film) -> dict[str, Any]:
        return {
            "kind": "atheria_lab.SimulationHistory",
            "engine": self._settings,
            "about": self.about,
            "psi_shape": self._shape,
            "picture_shape": film.frames[0].picture.shape,
            "lattice": self.lattice,
            "limits": {"max_frames": self.max_frames, "side": self.side, "keep": self.keep},
            "frames_seen": self.seen,
            "steps": [frame.step for frame in film.frames],
            "colours": {"cmap": film.cmap, "low": film.low, "high": film.high},
            "statistics": [frame.statistics._asdict() for frame in film.frames],
        }

    def _export(
        self, path: str | Path, film: exports.Film, write: Any, facts: dict[str, Any], *more: Any
    ) -> Path:
        path = Path(path)
        exports.write_file(path, lambda beside: write(beside, film, *more))
        exports.write_facts(path, self._facts(film) | facts)
        return path


def _statistics(rho: Tensor) -> Statistics:
    broken = rho.isfinite().logical_not().sum()
    total = rho.sum()
    numbers = torch.stack([
        total / rho.numel(), rho.min(), rho.max(), rho.std(correction=0), total.sqrt(),
        broken.to(rho.dtype),
    ])  # fmt: skip
    mean, low, high, deviation, norm, count = numbers.tolist()  # one wait for the device
    return Statistics(mean, low, high, deviation, norm, int(count))
