"""Results as files: one JSON a point, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from atheria_lab._files import write_atomically
from atheria_lab.scale.results import SweepResult
from atheria_lab.scale.space import Point

FORMAT = 1
_FIELDS = ("losses", "metrics", "seconds", "peak_bytes", "predicted_bytes", "declared_bytes",
           "plan")  # fmt: skip


class ResultStore:
    """A folder of results, each in a file that its point's fingerprint names.

    A file is written beside its place, synced, and moved in: a kill leaves all of it or none. It
    carries a SHA-256, and the settings in full. Errors are not stored: the next sweep tries again.

    Args:
        directory: it is made if it is not there.

    Raises:
        OSError: it cannot be made, or it is a file.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)

    def path(self, point: Point) -> Path:
        """The file of a point's result."""
        return self.directory / f"{point.fingerprint}.json"

    def trainer_path(self, point: Point) -> Path:
        """The file of a point's trained law."""
        return self.directory / f"{point.fingerprint}.safetensors"

    def write(self, point: Point, result: SweepResult, trainer: bytes | None = None) -> SweepResult:
        """Store a result, and its trainer before it.

        Returns:
            The result, which knows the file of its trainer.

        Raises:
            OSError: as the file system says it.
        """
        if trainer is not None:
            write_atomically(self.trainer_path(point), trainer)
        told = {name: getattr(result, name) for name in _FIELDS}
        facts = {"format": FORMAT, "point": point.facts, "result": told}
        text = json.dumps({**facts, "sha256": _digest(facts)}, indent=1)
        write_atomically(self.path(point), text.encode())
        return self._with_trainer(point, result)

    def read(self, point: Point, *, trainer: bool = False) -> SweepResult | None:
        """The result of a point; ``None`` where there is none yet.

        A damaged file counts as none: a warning names it and what is wrong with it, and the point
        is trained again, which replaces the file.

        Args:
            point: whose.
            trainer: only a result whose trainer is there too counts.
        """
        path = self.path(point)
        if not path.is_file() or (trainer and not self.trainer_path(point).is_file()):
            return None
        told = _parse(path, point)
        if isinstance(told, str):
            warnings.warn(
                f"directory: {path} is damaged: {told}. Its point is trained again.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        told["losses"] = tuple(told["losses"])
        told["metrics"] = {name: tuple(values) for name, values in told["metrics"].items()}
        result = SweepResult(point.given, point.fingerprint, **told)
        return self._with_trainer(point, result)

    def __repr__(self) -> str:
        count = sum(1 for _ in self.directory.glob("[0-9a-f]*.json"))
        return f"ResultStore({str(self.directory)!r}, {count} results)"

    def _with_trainer(self, point: Point, result: SweepResult) -> SweepResult:
        path = self.trainer_path(point)
        return SweepResult(**{**vars(result), "trainer": path if path.is_file() else None})


def _parse(path: Path, point: Point) -> dict[str, Any] | str:
    """The result in a file, or what is wrong with the file."""
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        return f"it is no JSON ({error})"
    if not isinstance(facts, dict) or "format" not in facts:
        return "it holds no result of a sweep"
    if facts["format"] != FORMAT:
        return f"it has format {facts['format']!r}, and this version reads {FORMAT}"
    digest = facts.pop("sha256", None)
    if digest != _digest(facts):
        return "it does not match its checksum"
    if facts["point"] != json.loads(json.dumps(point.facts)):
        return "it is the result of another point"
    result: dict[str, Any] = facts["result"]
    return result


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
