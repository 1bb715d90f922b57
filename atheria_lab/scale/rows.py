"""Which rows of a lattice belong to which rank: whole blocks of rows, as even as blocks allow."""

from __future__ import annotations

from dataclasses import dataclass

from atheria_lab._checks import integer

# Enough blocks to deal out evenly, few enough that each is worth a call.
_BLOCKS, _LARGEST = 16, 32


@dataclass(frozen=True)
class Rows:
    """The rows ``0 ... height - 1`` in blocks, dealt out to ranks.

    Attributes:
        height: of the whole lattice.
        block: rows of a block; the last one of the lattice may have fewer.
        ranks: how many share it.
    """

    height: int
    block: int
    ranks: int

    def __post_init__(self) -> None:
        integer("height", self.height)
        integer("block", self.block)
        integer("ranks", self.ranks)
        if self.blocks < self.ranks:
            raise ValueError(
                f"height: got {self.height} rows in {self.blocks} blocks of {self.block} for "
                f"{self.ranks} ranks; each rank takes at least one block. Take a larger lattice, a "
                "smaller block or fewer ranks."
            )

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.height // self.block)

    def of(self, rank: int) -> slice:
        """The rows of a rank; the first ranks have the blocks that are left over."""
        even, left = divmod(self.blocks, self.ranks)
        first = rank * even + min(rank, left)
        last = first + even + (rank < left)
        return slice(first * self.block, min(last * self.block, self.height))

    @property
    def counts(self) -> list[int]:
        """Rows of each rank."""
        return [rows.stop - rows.start for rows in map(self.of, range(self.ranks))]


def usual_block(height: int, unit: int) -> int:
    """A block for a lattice, whatever the number of ranks: the results must not depend on it."""
    return unit * max(1, min(_LARGEST, height // _BLOCKS) // unit)
