"""200 small trainings, 10 random kills of workers: every result, none twice; about two minutes."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from distributed import Client, LocalCluster

import atheria_lab as al
from atheria_lab.scale.cluster import local_cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))

SEED = 3


def kill_workers(
    cluster: LocalCluster, directory: Path, points: int, kills: int, ended: threading.Event
) -> int:
    """Kill a random worker each time that a random number of results is there; how many died."""
    choose, killed = random.Random(SEED), 0
    # One in each tenth of the sweep.
    share = points // kills
    for turn in range(kills):
        due = turn * share + choose.randrange(1, share)
        while len(list(directory.glob("*.json"))) < due:
            if ended.wait(0.02):
                return killed
        while not (pids := [worker.pid for worker in cluster.workers.values() if worker.pid]):
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):  # it is being made anew
            os.kill(choose.choice(pids), signal.SIGKILL)
            killed += 1
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    import telling  # noqa: F401  # the workers find its law by name

    with (
        tempfile.TemporaryDirectory() as folder,
        local_cluster(tasks=2) as cluster,
        Client(cluster) as client,
    ):
        log, directory = Path(folder) / "log", Path(folder) / "results"
        space = {
            "law": {"law": "Telling", "d_state": 2, "log": str(log), "how": "train"},
            "size": 8, "steps": 20, "budget": "1 MiB", "episodes": 10,
            "seed": range(options.points),
        }  # fmt: skip
        ended, killed = threading.Event(), []
        killer = threading.Thread(
            target=lambda: killed.append(
                kill_workers(cluster, directory, options.points, options.kills, ended)
            )
        )
        killer.start()
        start = time.perf_counter()
        results = al.sweep(space, client, directory=directory)
        took = time.perf_counter() - start
        ended.set()
        killer.join()
        begun = len(log.read_text().splitlines())
        files = len(list(directory.iterdir()))
        again = al.sweep(space, client, directory=directory, progress=False)
        assert len(log.read_text().splitlines()) == begun, "a second call trained something"
    # A worker that dies before the law is first asked leaves no line in the log.
    cut = sum(result.attempts - 1 for result in results)
    print(
        f"{options.points} trainings, {killed[0]} workers killed in {took:.0f} s: "
        f"{len(results) - len(results.errors)} results in {files} files, "
        f"{len(results.errors)} errors; {cut} trainings were cut short by a kill and begun again, "
        "0 by a second call"
    )
    assert killed[0] == options.kills, "the sweep ended before the kills"
    assert files == options.points and not results.errors
    assert len({result.fingerprint for result in results}) == options.points
    assert [each.losses for each in again] == [each.losses for each in results]
    assert begun - options.points <= cut <= options.kills


if __name__ == "__main__":
    main()
