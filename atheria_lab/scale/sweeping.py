"""A sweep: the trainings of a space, on the workers of Dask, each stored as it comes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from atheria_lab._checks import one_of
from atheria_lab.scale.flights import Flight, Flights, Task
from atheria_lab.scale.peak import Foresight
from atheria_lab.scale.progress import following
from atheria_lab.scale.results import SweepResult, SweepResults
from atheria_lab.scale.space import Point, points
from atheria_lab.scale.store import ResultStore

if TYPE_CHECKING:
    from distributed import Client

_PATIENCE = 300.0
Keep = Literal["results", "trainers"]


def sweep(
    space: Mapping[str, Any],
    client: Client | str | None = None,
    *,
    directory: str | Path | None = "sweep",
    keep: Keep = "results",
    progress: bool = True,
) -> SweepResults:
    """Train every point of a space, in parallel, and store each result as it comes.

    A point whose result is in the directory is not trained again, whatever space it came from: a
    sweep that was interrupted goes on when it is called again. Each task declares its peak, which
    is known before anything runs, and no worker gets more than its memory holds. A worker that
    dies is replaced; its training is begun once more, on the next free worker, and after a second
    death reported as an error, while the rest goes on.

    Trainings run on CPUs, on one thread each, and one at a time in a worker: give a worker one
    thread, and take more workers.

    Args:
        space: a dict of lists, see :func:`~atheria_lab.scale.points`: law, size, steps, budget,
            gamma, seed, episodes, ...
        client: a ``dask.distributed.Client``, or the address of a scheduler such as
            "tcp://scheduler:8786". ``None``: as many workers on this machine as its cores and
            memory allow, for as long as the sweep takes. A worker says how much memory its tasks
            may take as a resource of Dask's, ``--resources "memory=11e9"``; one that does not gets
            three quarters of its memory limit, less 400 MiB.
        directory: where results are stored, one file a point; ``None``: nowhere.
        keep: "results", or "trainers": the trained laws, too, as
            :meth:`~atheria_lab.Trainer.load` reads them.
        progress: show a bar; in a notebook a table and a figure that fill up.

    Returns:
        One result a point, in the order of the product; a training that failed has its reason in
        ``.error``, and is tried again by the next sweep.

    Raises:
        ValueError: a point that makes no sense, a space that is empty or has no end, a budget that
            no plan meets, or a training over every worker's memory; nothing has started.
        ConnectionError: no scheduler answers at the address; it takes at most 5 s to know.
        RuntimeError: a scheduler or workers with other versions; no workers, or all of them gone
            for five minutes.
        ImportError: it needs ``pip install 'atheria-lab[scale]'``.

    Example:
        >>> law = {"law": "MLP", "d_state": 8, "hidden": 16}
        >>> space = {"law": law, "size": 32, "steps": 100, "gamma": [0.0, 0.01, 0.1],
        ...          "seed": [0, 1, 2], "budget": "4 MiB", "episodes": 10}
        >>> al.sweep(space).best()
    """
    one_of("keep", keep, get_args(Keep))
    if keep == "trainers" and directory is None:
        raise ValueError('directory: got None; keep="trainers" needs one to put them in.')
    wanted = points(space)
    results = SweepResults(wanted)
    store = None if directory is None else ResultStore(directory)
    missing = []
    for place, point in enumerate(wanted):
        found = _stored(store, point, keep)
        if found is not None:
            results.put(place, found)
        else:
            missing.append(place)
    if not missing:
        with following(results, progress):
            return results
    foresight = Foresight()
    tasks = [Task(at, wanted[at], foresight.declared_bytes(wanted[at])) for at in missing]
    largest = max(tasks, key=lambda task: task.declared)
    try:
        with (
            _workers(client, largest, len(tasks)) as own,
            following(results, progress, own.dashboard_link) as shown,
        ):
            for place, result in _finished(own, tasks, store, keep):
                results.put(place, result)
                shown()
    except KeyboardInterrupt as interrupt:
        kept = "" if store is None else f" and stored in {store.directory}; call it again for more"
        interrupt.add_note(f"sweep: {len(results.done)} of {len(results)} points are done{kept}.")
        raise
    return results


@contextlib.contextmanager
def _workers(client: Client | str | None, largest: Task, tasks: int) -> Iterator[Client]:
    """A connection to workers that can do the largest task."""
    try:
        from atheria_lab.scale import cluster
    except ModuleNotFoundError as error:
        raise ImportError(
            f"sweep: {error.name} is missing: pip install 'atheria-lab[scale]'."
        ) from error
    with cluster.connected(client, largest.declared, tasks) as own:
        cluster.check_versions(own)
        cluster.check_memory(own, largest.declared, largest.point)
        yield own


def _finished(
    client: Client, tasks: Sequence[Task], store: ResultStore | None, keep: Keep
) -> Iterator[tuple[int, SweepResult]]:
    """Each task's place and result as they come, already stored."""
    from atheria_lab.scale.cluster import count_workers

    waiting = deque(tasks)
    with Flights(client, keep == "trainers") as flights:
        workers, looked = count_workers(client), time.monotonic()
        seen = looked
        while waiting or len(flights):
            # One a worker: none waits where another one may take the worker down.
            while waiting and len(flights) < max(1, workers):
                task = waiting.popleft()
                found = _stored(store, task.point, keep)  # another sweep may have been here
                if found is None:
                    flights.send(task)
                else:
                    yield task.place, found
            flight = flights.next(timeout=1.0)
            if flight is not None:
                yield flight.task.place, _outcome(flight, store)
            if time.monotonic() > looked + 1:  # clusters grow and shrink
                workers, looked = count_workers(client), time.monotonic()
                seen = looked if workers else seen
            if time.monotonic() > seen + _PATIENCE:
                raise RuntimeError(
                    f"client: all workers have been gone for {_PATIENCE:.0f} s. What is done is "
                    "stored; start workers, and call it again for the rest."
                )


def _outcome(flight: Flight, store: ResultStore | None) -> SweepResult:
    """The result of a task that is over, stored; or why there is none."""
    point = flight.task.point
    result = SweepResult(
        point.given,
        point.fingerprint,
        declared_bytes=flight.task.declared,
        attempts=len(flight.workers),
        error=flight.error,
    )
    if flight.told is None:
        return result
    result = replace(result, **flight.told.result)
    return result if store is None else store.write(point, result, flight.told.trainer)


def _stored(store: ResultStore | None, point: Point, keep: Keep) -> SweepResult | None:
    return None if store is None else store.read(point, trainer=keep == "trainers")
