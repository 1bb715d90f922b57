"""The workers of a sweep: of this machine, or of a cluster that is there.

Memory is a resource of Dask's, ``memory``, in bytes: each worker has some, each task asks for its
peak, and the scheduler starts no task where it does not fit. A worker that was started without it
gets three quarters of its memory limit, less what a process takes with torch in it, so that it
stays clear of the four fifths where Dask pauses a worker.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from atheria_lab.memory import format_size
from atheria_lab.memory.limits import room_bytes

# A process with torch and this package loaded, measured at 310 MiB, and some room.
PROCESS_BYTES = 400 * 2**20
_SECONDS = 4.0
_GUARD = (
    "Workers are processes that read the running script again, so in a script the call has to "
    'stand under  if __name__ == "__main__":'
)
_HOW = (
    "dask worker SCHEDULER_ADDRESS --nthreads 1 --nworkers 4 --memory-limit 16GB "
    '--resources "memory=11e9"'
)


def usable_bytes(limit: int) -> int:
    """Of a worker's memory limit, the bytes that tasks may ask for; 0 if it is too small."""
    return max(0, int(0.75 * limit) - PROCESS_BYTES)


class DeclareMemory(WorkerPlugin):
    """Gives a worker that was started without the resource ``memory`` one, from its limit."""

    name = "atheria-lab-memory"
    idempotent = True

    async def setup(self, worker: Worker) -> None:
        """Called on every worker, on those that join later too."""
        limit = worker.memory_manager.memory_limit
        if "memory" not in worker.state.total_resources and limit:
            await worker.set_resources(memory=usable_bytes(limit))


@contextlib.contextmanager
def connected(client: Client | str | None, largest: int, tasks: int) -> Iterator[Client]:
    """A connection of the sweep's own, to the scheduler of a client or to a new local cluster.

    Args:
        client: whose scheduler; its address; or ``None``.
        largest: bytes of the largest task, for a local cluster.
        tasks: how many there are, likewise.

    Raises:
        ConnectionError: no scheduler answers, after at most four seconds.
        ValueError: this machine has not the memory for the largest task.
    """
    if client is None:
        with local_cluster(largest, tasks) as cluster, _connect(cluster.scheduler_address) as own:
            yield own
        return
    if isinstance(client, str):
        with _connect(client) as own:
            yield own
        return
    if not isinstance(client, Client) or client.asynchronous:
        raise TypeError(
            f"client: got {client!r}; it takes a dask.distributed.Client that is not asynchronous, "
            "an address such as tcp://scheduler:8786, or None for the workers of this machine."
        )
    scheduler: Any = client.scheduler
    if scheduler is None:
        raise ConnectionError("client: it is closed; make a new one.")
    with _connect(scheduler.address, client.security) as own:
        yield own


@contextlib.contextmanager
def local_cluster(largest: int = 0, tasks: int = 10**6) -> Iterator[LocalCluster]:
    """Workers on this machine: processes of one thread, as many as cores and memory allow.

    They and the dashboard listen on the loopback only.

    Args:
        largest: bytes of the largest task; fewer workers share the memory where it is large.
        tasks: how many there are: no more workers than that.

    Raises:
        RuntimeError: the script that is running has no ``if __name__ == "__main__":``.
        ValueError: there is not the memory for the largest task.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(_GUARD)
    room = int(0.9 * (room_bytes() or psutil.virtual_memory().available))
    most = max(1, min(CPU_COUNT, tasks))
    workers = next((n for n in range(most, 0, -1) if usable_bytes(room // n) >= largest), None)
    if workers is None:
        raise ValueError(
            f"space: its largest training needs {format_size(largest)}, and this machine has "
            f"{format_size(usable_bytes(room))} for it ({format_size(room)} are free). Give it a "
            "smaller budget or size, or a cluster with more memory: client=."
        )
    share = room // workers
    settings = {
        "distributed.scheduler.allowed-failures": 10**6,  # the sweep counts, and better
        "distributed.worker.memory.target": False,  # results are small; nothing is spilled to disk
        "distributed.worker.memory.spill": False,
    }
    with dask.config.set(settings):
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=share,
                resources={"memory": usable_bytes(share)},
                env=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
                silence_logs="CRITICAL",
            )
        except RuntimeError as error:
            raise RuntimeError(f"sweep: a worker could not be started. {_GUARD}") from error
    with cluster:
        # A worker that dies while it starts is not begun again by its nanny, but by this.
        cluster.adapt(minimum=workers, maximum=workers)
        yield cluster


def check_versions(client: Client) -> None:
    """Refuse a scheduler or workers that would compute something else, or nothing.

    Raises:
        RuntimeError: there is no worker; or one, or the scheduler, has another Python, torch,
            atheria_lab, dask or distributed: the message says which has what.
    """
    found: Any = client.get_versions(packages=["atheria_lab", "torch"])
    if not found["workers"]:
        raise RuntimeError(
            "client: the scheduler has no worker yet. Start some, or wait for them with "
            f"client.wait_for_workers(1):\n  {_HOW}"
        )
    mine = _versions(found["client"])
    # The scheduler reads the tasks that it hands on, so it needs the package, too.
    members = {"scheduler": found["scheduler"]}
    members |= {f"worker at {address}": told for address, told in found["workers"].items()}
    for member, told in members.items():
        theirs = _versions(told)
        other = [
            f"{name} {theirs[name] or 'not at all'} (here {mine[name]})"
            for name in mine
            if theirs[name] != mine[name]
        ]
        if other:
            raise RuntimeError(
                f"client: the {member} has {', '.join(other)}. Install the same "
                "versions there and start it again, or run the sweep where they are the same."
            )


def check_memory(client: Client, largest: int, point: object) -> None:
    """Have every worker say how much memory it has, and refuse what fits none.

    Args:
        client: of the sweep.
        largest: bytes of the largest task.
        point: whose task it is.

    Raises:
        ValueError: a worker does not say, or the largest task is over every worker's memory.
    """
    client.register_plugin(DeclareMemory())
    workers = _workers(client)
    for address, worker in workers.items():
        if "memory" not in worker["resources"]:
            raise ValueError(
                f"client: the worker at {address} has neither a memory limit nor a resource named "
                f"memory, so there is no telling what fits it. Start it with one:\n  {_HOW}"
            )
    most = max(worker["resources"]["memory"] for worker in workers.values())
    if largest > most:
        raise ValueError(
            f"space: {point!r} needs {format_size(largest)}, and the largest of "
            f"{len(workers)} workers has {format_size(int(most))} for it. Give it a smaller budget "
            f"or size, or workers with more memory:\n  {_HOW}"
        )


def count_workers(client: Client) -> int:
    """How many workers there are now."""
    return len(_workers(client))


def _workers(client: Client) -> dict[str, Any]:
    scheduler: Any = client.scheduler
    found: dict[str, Any] = client.sync(scheduler.identity)["workers"]
    return found


@contextlib.contextmanager
def _connect(address: str, security: Any = None) -> Iterator[Client]:
    """A client of our own, closed at the end: what it still asks for is then called off."""
    found = _within(
        _SECONDS + 0.5,
        lambda: Client(
            address, security=security, timeout=_SECONDS, set_as_default=False,
            name="atheria-lab-sweep",
        ),
    )  # fmt: skip
    if not isinstance(found, Client):
        raise ConnectionError(
            f"client: no scheduler answers at {address} ({found or 'no word'}). Start one with  "
            "dask scheduler  and workers with  dask worker, or leave the client out to sweep on "
            "this machine."
        ) from found
    with found:
        yield found


def _within(seconds: float, make: Callable[[], Client]) -> Client | Exception | None:
    """What comes in time: a client, why there is none, or nothing.

    Whoever listens at a port need not be a scheduler: what it says may be read as the length of a
    message without end, and waited for.
    """
    came: list[Client | Exception] = []

    def attempt() -> None:
        try:
            came.append(make())
        except Exception as error:  # whatever it is, there is no scheduler
            came.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return came[0] if came else None


def _versions(told: dict[str, Any]) -> dict[str, str | None]:
    """The versions that have to be the same; of torch without its build."""
    packages = told["packages"]
    torch_version = packages.get("torch")
    return {
        "Python": ".".join(told["host"]["python"].split(".")[:2]),
        "atheria_lab": packages.get("atheria_lab"),
        "torch": None if torch_version is None else torch_version.partition("+")[0],
        "dask": packages.get("dask"),
        "distributed": packages.get("distributed"),
    }
