"""A history as files that other programs open; each is written frame by frame."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atheria_lab._checks import integer, number
from atheria_lab._files import replacing, write_atomically
from atheria_lab.colours import table

if TYPE_CHECKING:
    from atheria_lab.snapshots.history import HistoryFrame

_EXTRA = "pip install 'atheria-lab[export]'"
_INK = (128, 136, 144, 255)  # a grey that stands out on white and on black alike


@dataclass(frozen=True)
class Film:
    """Frames and how they get their colours.

    Attributes:
        frames: in order, at least one.
        low: the density of the first colour.
        high: of the last; above ``low``.
        cmap: of :func:`atheria_lab.colours.table`.
        scale: screen pixels of a cell.
    """

    frames: Sequence[HistoryFrame]
    low: float
    high: float
    cmap: str
    scale: int

    def thinned(self, count: int) -> Film:
        """So many frames at most, spread evenly, the first and the last among them."""
        places = np.linspace(0, len(self.frames) - 1, min(count, len(self.frames))).round()
        if count == 1:
            places = np.array([len(self.frames) - 1])
        return replace(self, frames=[self.frames[int(place)] for place in places])

    def indices(self, frame: HistoryFrame, *, scale: int | None = None) -> np.ndarray:
        """A frame as places in the colour table, uint8; NaN as the first colour."""
        scale = scale or self.scale
        share = (frame.picture.astype(np.float64) - self.low) / (self.high - self.low)
        places = np.nan_to_num(np.clip(share, 0.0, 1.0), nan=0.0) * 255
        small = places.round().astype(np.uint8)
        return small.repeat(scale, axis=0).repeat(scale, axis=1)


def film(
    frames: Sequence[HistoryFrame],
    *,
    low: float,
    high: float,
    cmap: str = "sequential",
    scale: int | None = None,
    pixels: int = 320,
) -> Film:
    """Checked; see :meth:`SimulationHistory.to_gif`."""
    low, high = number("low", low), number("high", high)
    if high < low:
        raise ValueError(f"high: got {high:g}; it takes a number above low, {low:g}.")
    table(cmap)  # refuses an unknown name
    longest = max(frames[0].picture.shape)
    scale = max(1, round(pixels / longest)) if scale is None else integer("scale", scale, most=64)
    # A flat picture has a range too.
    return Film(frames, low, high if high > low else low + max(1e-12, abs(low)), cmap, scale)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` write beside the place, then move it in."""
    if path.is_dir():
        raise IsADirectoryError(f"path: {path} is a folder; it takes the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        write(beside)


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """The JSON beside an export, after it: with the SHA-256 of the file it belongs to."""
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts = {"file": path.name, "bytes": path.stat().st_size, "sha256": digest, **facts}
    text = json.dumps(_plain(facts), indent=1, allow_nan=False)
    write_atomically(path.with_name(f"{path.name}.json"), text.encode())


def write_gif(path: Path, film: Film, fps: float) -> None:
    """Frame after frame. Pillow's own save_all holds all of them until the end."""
    try:
        from PIL import GifImagePlugin, Image
    except ImportError:
        raise ImportError(f"GIF needs Pillow: {_EXTRA}.") from None
    hundredths = 100 / fps
    done = 0
    with path.open("wb") as file:
        for count, frame in enumerate(film.frames, start=1):
            indices = film.indices(frame)
            if count == 1:
                height, width = indices.shape
                # One table of 256 colours for all frames; then: loop for ever.
                file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0))
                file.write(table(film.cmap).tobytes())
                file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
            # Times are whole hundredths of a second: what rounding takes, a later frame gives.
            duration = round(count * hundredths) - done
            done += duration
            picture = Image.fromarray(indices)
            for block in GifImagePlugin.getdata(picture, duration=10 * duration):
                file.write(block)
        file.write(b";")


def write_mp4(path: Path, film: Film, fps: float) -> None:
    """H.264, 4:2:0, as browsers want it."""
    try:
        import av
    except ImportError:
        raise ImportError(f"MP4 needs PyAV: {_EXTRA}.") from None
    colours = table(film.cmap)
    height, width = film.indices(film.frames[0]).shape
    even = height + height % 2, width + width % 2  # 4:2:0 takes no other
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = even
        stream.pix_fmt = "yuv420p"
        # One thread holds few frames at a time; 18 is all but without loss to the eye.
        stream.options = {"crf": "18", "preset": "medium", "threads": "2"}
        for frame in film.frames:
            indices = film.indices(frame)
            padded = np.pad(indices, ((0, even[0] - height), (0, even[1] - width)), mode="edge")
            picture = av.VideoFrame.from_ndarray(colours[padded], format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def write_sheet(path: Path, film: Film, columns: int) -> None:
    """Frames in rows with their steps, and the colour bar below; the ground is transparent."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise ImportError(f"A contact sheet needs Pillow: {_EXTRA}.") from None
    colours = table(film.cmap)
    height, width = film.indices(film.frames[0]).shape
    columns = min(columns, len(film.frames))
    rows = math.ceil(len(film.frames) / columns)
    gap, line, bar = 10, 20, 44
    cell, row = max(width, 72) + gap, height + line + gap
    sheet = Image.new("RGBA", (columns * cell + gap, rows * row + gap + bar))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, frame in enumerate(film.frames):
        x, y = gap + place % columns * cell, gap + place // columns * row
        sheet.paste(Image.fromarray(colours[film.indices(frame)]), (x, y))
        draw.text((x, y + height + 3), f"step {frame.step:,}", _INK, font)
    y = rows * row + gap
    long = min(256, columns * cell - gap)
    ramp = np.linspace(0, 255, long).astype(np.uint8)[None].repeat(10, axis=0)
    sheet.paste(Image.fromarray(colours[ramp]), (gap, y))
    draw.text((gap, y + 13), f"{film.low:.3g}", _INK, font)
    draw.text((gap + long / 2, y + 13), "density", _INK, font, anchor="ma")
    draw.text((gap + long, y + 13), f"{film.high:.3g}", _INK, font, anchor="ra")
    sheet.save(path, format="PNG")


def write_npz(path: Path, film: Film) -> None:
    """A zip of .npy entries: the pictures go in one after the other."""
    shape = (len(film.frames), *film.frames[0].picture.shape)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("picture.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for frame in film.frames:
                entry.write(np.ascontiguousarray(frame.picture, "<f4").tobytes())
        for name, numbers in _columns(film).items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, numbers, allow_pickle=False)


def write_zarr(path: Path, film: Film, facts: dict[str, Any]) -> None:
    """A group, one chunk a frame, written beside its place and moved in."""
    try:
        import zarr
    except ImportError:
        raise ImportError(f"This needs zarr: {_EXTRA}.") from None
    if path.exists():
        raise FileExistsError(f"path: {path} is there already; remove it or take another.")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        group = zarr.open_group(beside, mode="w", zarr_format=3)
        group.attrs.update(_plain(facts))
        count, (height, width) = len(film.frames), film.frames[0].picture.shape
        pictures = group.create_array(
            "picture", shape=(count, height, width), chunks=(1, height, width), dtype="float32",
            dimension_names=("step", "row", "column"),
        )  # fmt: skip
        for place, frame in enumerate(film.frames):
            pictures[place] = frame.picture
        for name, numbers in _columns(film).items():
            column = group.create_array(
                name, shape=(count,), chunks=(count,), dtype=numbers.dtype,
                dimension_names=("step",),
            )  # fmt: skip
            column[:] = numbers
        beside.chmod(0o755)  # mkdtemp's own is private
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _columns(film: Film) -> dict[str, np.ndarray]:
    statistics = {
        name: np.array([getattr(frame.statistics, name) for frame in film.frames])
        for name in film.frames[0].statistics._fields
    }
    return {"step": np.array([frame.step for frame in film.frames], np.int64), **statistics}


def _plain(value: Any) -> Any:
    """As strict JSON takes it: NaN and infinity as words."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
