"""Snapshots as a zarr v3 group, which xarray and other tools open."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atheria_lab.snapshots.snapshot import Snapshot

AXES = ("step", "batch", "row", "column", "channel")


def to_zarr(snapshots: Sequence[Snapshot], path: Path) -> None:
    """Write snapshots beside their place, one after the other, and move the group in.

    Raises:
        ImportError: zarr is not installed.
        FileExistsError: there is something at ``path``.
        ValueError: there is no snapshot, or they differ in shape, dtype or law.
        OSError: as the file system says it; nothing is left behind.
    """
    try:
        import zarr
    except ImportError:
        raise ImportError("export writes zarr: pip install 'atheria-lab[snapshots]'.") from None
    if path.exists():
        raise FileExistsError(f"path: {path} is there already; remove it or take another.")
    if not snapshots:
        raise ValueError("store: it holds no snapshot to export.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        _write(zarr.open_group(temporary, mode="w", zarr_format=3), snapshots)
        temporary.chmod(0o755)  # mkdtemp's own is private
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(group: Any, snapshots: Sequence[Snapshot]) -> None:
    first = snapshots[0].read()
    group.attrs.update(
        {
            "title": "psi of an engine, by steps done",
            "law": first.law,
            "seed": first.seed,
            "complex": "psi is the amplitude; the density is the sum of |psi|^2 over channel",
        }
    )
    count = len(snapshots)
    steps = group.create_array(
        "step", shape=(count,), dtype="int64", chunks=(count,), dimension_names=("step",)
    )
    steps[:] = [snapshot.step for snapshot in snapshots]
    arrays = []
    for name, tensor in [
        ("psi", first.psi),
        *((f"hidden_{i}", h) for i, h in enumerate(first.hidden)),
    ]:
        own = tuple(f"{name}_{axis}" for axis in ("channel", "row", "column"))  # coarser than psi's
        axes = AXES if name == "psi" else ("step", "batch", *own)
        arrays.append(
            group.create_array(
                name,
                shape=(count, *tensor.shape),
                chunks=(1, *tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                dimension_names=axes if len(axes) == tensor.dim() + 1 else None,
            )
        )
    for place, snapshot in enumerate(snapshots):
        state = first if place == 0 else snapshot.read()
        if (state.law, state.psi.shape, state.psi.dtype) != (
            first.law, first.psi.shape, first.psi.dtype,
        ):  # fmt: skip
            raise ValueError(
                f"store: the snapshot of step {snapshot.step} has another law, shape or dtype than "
                f"the first, of step {snapshots[0].step}; export slices that have one: "
                "store.export(path, snapshots=store[2:5])."
            )
        for array, tensor in zip(arrays, (state.psi, *state.hidden), strict=True):
            array[place] = tensor.numpy()
        del state
