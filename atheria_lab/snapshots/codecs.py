"""How the numbers of a tensor become bytes in a file: as they are, or compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atheria_lab._checks import number, one_of

LOSSLESS = ("zstd", "pcodec")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HINT = "pip install 'atheria-lab[snapshots]'"


@dataclass(frozen=True)
class Lossy:
    """Compression with an error: every real and every imaginary part within ``tolerance``.

    Numbers are rounded to multiples of nearly twice the tolerance, which pcodec then packs. A
    tensor whose own precision is no finer than the tolerance is kept without any loss.
    Only finite numbers can be rounded so.

    Args:
        tolerance: the largest absolute error of a real number, above 0.
    """

    tolerance: float

    def __post_init__(self) -> None:
        number("tolerance", self.tolerance, least=math.ulp(0.0))


Compression = str | Lossy | None


def check_compression(compression: Compression) -> Compression:
    """Refuse an unknown compression, and one whose package is not installed."""
    if compression is None:
        return None
    if isinstance(compression, Lossy):
        _pcodec()
    elif isinstance(compression, str):
        one_of("compression", compression, LOSSLESS)
        _blosc() if compression == "zstd" else _pcodec()
    else:
        raise TypeError(
            f"compression: got {compression!r}; it takes None, 'zstd', 'pcodec' or a Lossy."
        )
    return compression


def encode(tensor: Tensor, compression: Compression) -> tuple[str, np.ndarray]:
    """A CPU tensor as the name of a codec and bytes ``[n]``, uint8.

    Raises:
        ValueError: numbers that are not finite, for a lossy compression.
    """
    real = as_real(tensor)
    if compression is None or real.numel() == 0:
        return "raw", real.reshape(-1).view(torch.uint8).numpy()
    if compression == "zstd":
        flat = real.reshape(-1).view(_INTEGERS[real.element_size()]).numpy()
        packed = _blosc().compress(flat, b"zstd", 5, 1)  # 1: bytes shuffled by the item size
        return "zstd", np.frombuffer(packed, dtype=np.uint8)
    if not real.is_floating_point() or real.dtype not in (torch.float32, torch.float64):
        return encode(tensor, "zstd")  # pcodec knows no bfloat16, and half the integers
    planes = _planes(real, tensor.is_complex())
    if isinstance(compression, Lossy):
        step = _step(planes, compression.tolerance)
        if step is not None:
            multiples = np.rint(planes.astype(np.float64) / step)
            wide = np.abs(multiples).max() >= 2**31
            return f"rounded:{step.hex()}", _pack(multiples.astype(np.int64 if wide else np.int32))
    return "pcodec", _pack(planes)


def decode(codec: str, data: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor that :func:`encode` was given; it may share memory with ``data``.

    Raises:
        ValueError: the bytes are not what the codec wrote.
    """
    real_dtype = dtype.to_real() if dtype.is_complex else dtype
    real_shape = (*shape, 2) if dtype.is_complex else shape
    if codec == "raw":
        flat = torch.from_numpy(data).view(real_dtype)
    elif codec == "zstd":
        unpacked = np.frombuffer(bytearray(_blosc().decompress(data.tobytes())), dtype=np.uint8)
        flat = torch.from_numpy(unpacked).view(real_dtype)
    else:
        numbers = _unpack(data)
        if codec.startswith("rounded:"):
            numbers = numbers * float.fromhex(codec.removeprefix("rounded:"))
        elif codec != "pcodec":
            raise ValueError(f"its codec {codec!r} is unknown")
        flat = torch.from_numpy(numbers).to(real_dtype)
        if dtype.is_complex and flat.numel() == math.prod(real_shape):
            flat = flat.view(2, -1).T.reshape(-1)
    if flat.numel() != math.prod(real_shape):
        raise ValueError(f"it holds {flat.numel()} numbers in place of {math.prod(real_shape)}")
    real = flat.view(real_shape)
    return torch.view_as_complex(real) if dtype.is_complex else real


def as_real(tensor: Tensor) -> Tensor:
    """The numbers of a CPU tensor, contiguous, a complex one as ``[..., 2]``."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def check_finite(tensors: tuple[Tensor, ...], compression: Compression) -> None:
    """Refuse NaN and infinity where numbers are to be rounded."""
    if isinstance(compression, Lossy):
        for tensor in tensors:
            if not torch.isfinite(
                torch.view_as_real(tensor) if tensor.is_complex() else tensor
            ).all():
                raise ValueError(
                    "engine: its state holds NaN or infinity, which a Lossy compression cannot "
                    "round; take compression='zstd'."
                )


def _planes(real: Tensor, is_complex: bool) -> np.ndarray:
    """All real parts, then all imaginary: like beside like is what a compressor wants."""
    flat = real.view(-1, 2).T if is_complex else real
    planes: np.ndarray = flat.reshape(-1).contiguous().numpy()
    return planes


def _step(planes: np.ndarray, tolerance: float) -> float | None:
    """What to round to multiples of; ``None`` where rounding would not save a bit."""
    largest = np.abs(planes).max()
    if not np.isfinite(largest):
        raise ValueError("a Lossy compression takes finite numbers.")
    # Reading rounds once more, to the nearest number of the tensor's own precision.
    spacing = float(np.spacing(largest))
    return 2 * (tolerance - spacing) if tolerance > 4 * spacing else None


def _pack(numbers: np.ndarray) -> np.ndarray:
    pcodec = _pcodec()
    packed = pcodec.standalone.simple_compress(numbers, pcodec.ChunkConfig())
    return np.frombuffer(packed, dtype=np.uint8)


def _unpack(data: np.ndarray) -> np.ndarray:
    try:
        numbers = _pcodec().standalone.simple_decompress(data.tobytes())
    except RuntimeError as error:
        raise ValueError(f"pcodec says: {error}") from error
    if numbers is None:
        raise ValueError("pcodec finds no numbers in it")
    unpacked: np.ndarray = numbers
    return unpacked


def _blosc() -> Any:
    try:
        from numcodecs import blosc
    except ImportError:
        raise ImportError(f"compression='zstd' needs numcodecs: {_HINT}.") from None
    return blosc


def _pcodec() -> Any:
    try:
        import pcodec
        import pcodec.standalone
    except ImportError:
        raise ImportError(f"this compression needs pcodec: {_HINT}.") from None
    return pcodec
