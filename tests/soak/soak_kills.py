"""1,000 kills -9 during writes lose nothing acknowledged: ``make soak`` runs it, 2 to 5 minutes."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "snapshots"))

from test_kills import random_kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    count = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        promised = random_kills(Path(folder) / "run", Path(folder) / "log", count, seed=1)
        took = time.perf_counter() - start
    print(
        f"{count} kills in {took:.0f} s: {promised} acknowledged snapshots checked after them, "
        "0 lost, 0 damaged, 0 unreadable stores"
    )


if __name__ == "__main__":
    main()
