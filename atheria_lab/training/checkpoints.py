"""A trainer in one file: safetensors for the numbers, JSON in its header for the rest.

Nothing is ever unpickled. The file carries a SHA-256 of both, so that a damaged one is refused
and not trained on.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atheria_lab._files import write_atomically

FORMAT = 1


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Save tensors and facts, atomically.

    Raises:
        ImportError: safetensors is not installed.
        OSError: as the file system says it.
    """
    from safetensors.torch import save

    own = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())
    }
    text = json.dumps({"format": FORMAT, **facts}, default=_plain)
    header = {"atheria_lab": text, "sha256": digest(text, own)}
    write_atomically(path, save(own, metadata=header))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load what :func:`write` saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"path: {path} is not a file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: {path} is damaged or no safetensors file: {error}.") from error
    text = header.get("atheria_lab")
    if text is None:
        raise ValueError(f"path: {path} was not saved by a trainer, or is damaged.")
    try:
        facts: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"path: {path} is damaged: its header is no JSON ({error}).") from error
    version = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(version, int):
        raise ValueError(f"path: {path} is damaged: its header tells no format.")
    if version > FORMAT:
        raise ValueError(
            f"path: {path} was saved by a newer version (format {version}; this one reads "
            f"up to {FORMAT}). Update atheria-lab."
        )
    if digest(text, tensors) != header.get("sha256"):
        raise ValueError(f"path: {path} is damaged: it does not match its checksum.")
    return tensors, facts


def _plain(number: Any) -> int | float:
    """Numpy's numbers as JSON holds them."""
    return operator.index(number) if hasattr(number, "__index__") else float(number)


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 of both."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
