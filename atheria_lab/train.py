"""``torchrun --nproc-per-node N -m atheria_lab.train``: ``atheria-lab train`` on N ranks.

The arguments are those of ``atheria-lab train``. The batch is split over the ranks; what is
printed and saved, rank 0 prints and saves. Without torchrun it is one process with the whole
batch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Generator, Sequence

from atheria_lab import cli
from atheria_lab.scale import ranks


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit status is 2 for arguments that make no sense, 1 where training failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--device", default="cpu")
    own.add_argument("--timeout", type=float, default=600.0)
    options, others = own.parse_known_args(given)
    try:
        with ranks.joined(options.device, timeout=options.timeout) as device, _first_rank_prints():
            return cli.main(["train", *others, "--device", device])
    except (RuntimeError, ValueError) as error:
        print(f"atheria-lab: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2


@contextlib.contextmanager
def _first_rank_prints() -> Generator[None]:
    if ranks.rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


if __name__ == "__main__":
    sys.exit(main())
