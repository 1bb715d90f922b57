"""How the kernels are started: their arguments, their grids, and the norm over a lattice."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from atheria_lab.native import StepOptions

# Programs of a pass; and of one that sums over cells, a part each. They are the same on every
# device, and so are the sums.
PROGRAMS, PARTS = 1024, 256
_CHUNK = 4096
_COMMON_ROOM = 96 * 1024  # bytes of shared memory that every device has
# A lattice under the least density was scaled by the constant 1 / sqrt(1e-30).
_MOST_SCALE = 0.999999e15
# Arguments that no kernel is compiled anew for.
STEP_ARGUMENTS = ("keep", "phase", "sign", "key0", "key1", "step0", "step1")


class Lattice(NamedTuple):
    """What a launch knows of psi."""

    batch: int
    height: int
    width: int
    d_state: int
    dtype: torch.dtype  # of its real numbers

    @classmethod
    def of(cls, psi: Tensor) -> Lattice:
        """Psi's, complex ``[B, H, W, d_state]``."""
        batch, height, width, d_state = psi.shape
        return cls(batch, height, width, d_state, psi.dtype.to_real())

    @property
    def cells(self) -> int:
        """Of one lattice."""
        return self.height * self.width


def on_device(psi: Tensor) -> AbstractContextManager[Any]:
    """Launches inside it go to psi's device."""
    return torch.cuda.device_of(psi)


def step_arguments(options: StepOptions) -> dict[str, int]:
    """The numbers of a step, as integers: a double's bits, and words of 32 bits with a sign."""
    keep, phase, sign = (
        struct.unpack("<q", struct.pack("<d", value))[0]
        for value in (1 - options.gamma, options.phase, options.sign)
    )
    key0, key1, step0, step1 = (
        struct.unpack("<i", struct.pack("<I", word % 2**32))[0]
        for word in (options.seed, options.seed >> 32, options.step, options.step >> 32)
    )
    values = (keep, phase, sign, key0, key1, step0, step1)
    return dict(zip(STEP_ARGUMENTS, values, strict=True))


def noise_kind(options: StepOptions) -> int:
    """Which noise there is: 1 for phase and 2 for sign noise, added."""
    return (options.phase > 0) + 2 * (options.sign > 0)


def padded(size: int) -> int:
    """The power of two that a tile's side takes: a product of tiles wants 16 at least."""
    return int(max(16, triton.next_power_of_2(size)))


def tile_of(psi: Tensor, numbers: int, of_row: int, what: str) -> dict[str, Any]:
    """A launch's tile: ``M`` cells (or blocks), and the warps that share it.

    A product's operands lie in registers: what does not spill them was found by compiling for
    compute capability 9.0, not by timing.

    Args:
        psi: complex; its precision and device count.
        numbers: of the padded matrices that a program keeps.
        of_row: numbers more in shared memory for each row of the tile.
        what: the sizes in words, for the error.

    Raises:
        ValueError: the device has no room for the smallest tile.
    """
    size = psi.dtype.to_real().itemsize
    fixed = numbers + numbers // 2  # one of them is there turned over, too
    rows = 32 if numbers <= 1024 and (fixed + 32 * of_row) * size <= _COMMON_ROOM else 16
    needed, room = (fixed + rows * of_row) * size, _room(psi)
    if needed > room:
        raise ValueError(
            f"weights: {what} take {needed} bytes of shared memory in {psi.dtype}; {psi.device} "
            f"has {room}. al.Step(law) takes any size."
        )
    # Products and sums are fused into one rounding, whatever Triton's default.
    return {"M": rows, "num_warps": 8 if numbers < 8192 else 16, "enable_fp_fusion": True}


def network_sizes(psi: Tensor, hidden: int) -> dict[str, Any]:
    """What a network's kernels are compiled for: its width and hidden units, padded too."""
    width = 2 * psi.shape[-1]
    w, h = padded(width), padded(hidden)
    tile = tile_of(psi, 2 * w * h, 4 * (w + h), f"d_state {psi.shape[-1]} and {hidden} hidden")
    return {"WIDTH": width, "HIDDEN": hidden, "W": w, "H": h, **tile}


def _room(psi: Tensor) -> int:
    if psi.device.type != "cuda":
        return _COMMON_ROOM
    device = psi.device.index
    utils: Any = triton.runtime.driver.active.utils
    return int(utils.get_device_properties(device)["max_shared_mem"])


def real(psi: Tensor) -> Tensor:
    """Psi's numbers as the kernels read them: ``[B, H, W, d_state, 2]``, in place."""
    return torch.view_as_real(psi.detach().resolve_conj().contiguous())


def scale_lattices(next_psi: Tensor, densities: Tensor) -> Tensor:
    """Scale each lattice to a mean density of 1, in place.

    Args:
        next_psi: complex ``[B, H, W, d_state]``.
        densities: of the tiles, float64 ``[B, tiles]``.

    Returns:
        What each lattice was multiplied by, real ``[B]``.
    """
    lattice = Lattice.of(next_psi)
    scales = next_psi.new_empty(lattice.batch, dtype=lattice.dtype)
    numbers = 2 * lattice.d_state * lattice.cells
    _scale[triton.cdiv(numbers, _CHUNK), lattice.batch](
        real(next_psi),
        densities.sum(1),
        scales,
        lattice.cells,
        numbers,
        CHUNK=_CHUNK,
        enable_fp_fusion=True,
    )
    return scales


def shares_of(gradient: Tensor, next_psi: Tensor, scales: Tensor) -> Tensor:
    """How much of next_psi the norm "lattice" takes out of its gradient, real ``[B]``."""
    lattice = Lattice.of(next_psi)
    numbers = 2 * lattice.d_state * lattice.cells
    chunks = triton.cdiv(numbers, _CHUNK)
    products = next_psi.new_empty(lattice.batch, chunks, dtype=torch.float64)
    _multiply[chunks, lattice.batch](
        real(gradient), real(next_psi), products, numbers, CHUNK=_CHUNK, enable_fp_fusion=True
    )
    shares = products.sum(1).div_(lattice.cells).to(lattice.dtype)
    return shares.masked_fill_(scales >= _MOST_SCALE, 0)


def sums_of(parts: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The sums over the parts ``[parts, numbers]``, in double precision and one order.

    Returns:
        One tensor for each of ``like``, of its shape; they share no memory.
    """
    sums = parts.sum(0, dtype=torch.float64).to(parts.dtype)
    split = sums.split([one.numel() for one in like])
    return [part.view(one.shape).clone() for part, one in zip(split, like, strict=True)]


@triton.jit
def _scale(next_psi, densities, scales, cells, numbers, CHUNK: tl.constexpr):
    lattice = tl.program_id(1)
    mean = tl.load(densities + lattice) / cells
    # A NaN stays one.
    scale = (1.0 / tl.sqrt(tl.where(mean < 1e-30, 1e-30, mean))).to(scales.dtype.element_ty)
    if tl.program_id(0) == 0:
        tl.store(scales + lattice, scale)
    place = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    here = next_psi + lattice.to(tl.int64) * numbers + place
    tl.store(here, tl.load(here, mask=place < numbers) * scale, mask=place < numbers)


@triton.jit
def _multiply(gradient, next_psi, products, numbers, CHUNK: tl.constexpr):
    lattice = tl.program_id(1)
    place = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    here = lattice.to(tl.int64) * numbers + place
    one = tl.load(gradient + here, mask=place < numbers, other=0.0)
    other = tl.load(next_psi + here, mask=place < numbers, other=0.0)
    product = tl.sum(one * other, axis=0).to(tl.float64)
    tl.store(products + lattice.to(tl.int64) * tl.num_programs(0) + tl.program_id(0), product)
