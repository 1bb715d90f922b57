"""A sweep: the trainings of a space, on the workers of Dask, each stored as it comes."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from atheria_lab._checks import one_of
from atheria_lab.scale.peak import Foresight
from atheria_lab.scale.progress import following
from atheria_lab.scale.results import SweepResult, SweepResults
from atheria_lab.scale.space import Point, points
from atheria_lab.scale.store import ResultStore
from atheria_lab.scale.task import Told, train

if TYPE_CHECKING:
    from distributed import Client, Future

Keep = Literal["results", "trainers"]
# A task is begun so often: once, and once more after its worker died.
_MOST_ATTEMPTS = 2


class Task(NamedTuple):
    """A point to train.

    Attributes:
        place: in the sweep.
        point: it.
        declared: bytes of memory that it asks for.
    """

    place: int
    point: Point
    declared: int


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
        RuntimeError: workers with other versions, or none at all.
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
    flying: dict[str, tuple[Task, Future[Any]]] = {}
    news: queue.SimpleQueue[str] = queue.SimpleQueue()
    deaths = Counter[str]()
    with _deaths(client, flying, deaths, news):
        workers, looked = count_workers(client), time.monotonic()
        while waiting or flying:
            # One task a worker: Dask suspects all that a dying worker had, those that wait there
            # as well as the one that ran.
            while waiting and len(flying) < max(1, workers):
                task = waiting.popleft()
                found = _stored(store, task.point, keep)  # another sweep may have been here
                if found is not None:
                    yield task.place, found
                    continue
                _submit(client, task, keep, flying, news)
            if not flying:
                continue
            with contextlib.suppress(queue.Empty):
                key = news.get(timeout=1.0)
                if key in flying and (flying[key][1].done() or deaths[key] >= _MOST_ATTEMPTS):
                    task, future = flying.pop(key)
                    yield task.place, _outcome(task, future, deaths[key], store)
            if time.monotonic() > looked + 1:  # clusters grow and shrink
                workers, looked = count_workers(client), time.monotonic()


def _submit(
    client: Client,
    task: Task,
    keep: Keep,
    flying: dict[str, tuple[Task, Future[Any]]],
    news: queue.SimpleQueue[str],
) -> None:
    key = f"train-{task.point.fingerprint[:32]}-{keep}"
    future = client.submit(
        train, task.point, keep == "trainers", key=key, resources={"memory": task.declared},
        pure=False,
    )  # fmt: skip
    flying[key] = task, future
    future.add_done_callback(lambda done: news.put(done.key))


def _outcome(
    task: Task, future: Future[Any], deaths: int, store: ResultStore | None
) -> SweepResult:
    """The result of a task that is done, stored; or why there is none."""
    result = SweepResult(
        task.point.given,
        task.point.fingerprint,
        declared_bytes=task.declared,
        attempts=1 + deaths,
    )
    if deaths >= _MOST_ATTEMPTS and not future.done():
        future.cancel(force=True, reason="its worker died twice", msg="its worker died twice")
        return replace(result, error=_DIED, attempts=deaths)
    error = future.exception() if future.status == "error" else None
    if type(error).__name__ == "KilledWorker":
        return replace(result, error=_DIED, attempts=deaths)
    if error is not None:
        return replace(result, error=f"{type(error).__name__}: {error}")
    if future.status != "finished":
        return replace(result, error=f"{future.status}: the scheduler was lost, or called it off")
    told: Told = future.result()
    result = replace(result, **told.result)
    return result if store is None else store.write(task.point, result, told.trainer)


_DIED = (
    "its worker died while it was trained, and so did the next one: killed by somebody, or by the "
    "system for its memory"
)


@contextlib.contextmanager
def _deaths(
    client: Client,
    flying: Mapping[str, Any],
    deaths: Counter[str],
    news: queue.SimpleQueue[str],
) -> Iterator[None]:
    """Count how often a worker died that had a task; Dask tells every client that listens."""

    def heard(event: tuple[float, Any]) -> None:
        message = event[1]
        if not isinstance(message, dict) or message.get("action") != "remove-worker":
            return
        if message.get("expected"):
            return
        for key in message.get("processing-tasks", ()):
            if key in flying:
                deaths[key] += 1
                news.put(key)

    client.subscribe_topic("all", heard)
    try:
        yield
    finally:
        client.unsubscribe_topic("all")


def _stored(store: ResultStore | None, point: Point, keep: Keep) -> SweepResult | None:
    return None if store is None else store.read(point, trainer=keep == "trainers")
