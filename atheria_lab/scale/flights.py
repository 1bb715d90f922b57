"""Tasks on their way: sent to a scheduler, begun by workers, back with a result or an error."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from atheria_lab.scale.space import Point
from atheria_lab.scale.task import TOPIC, Told, train

if TYPE_CHECKING:
    from distributed import Client

# A task is begun so often: once, and once more after its worker died.
_MOST_ATTEMPTS = 2
_DIED = (
    "its worker died while it was trained, and so did the next one: killed by somebody, or by the "
    "system for its memory"
)


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


class Flight:
    """A task on its way, and what came of it.

    Attributes:
        task: it.
        key: Dask's name for it.
        workers: the addresses of those that began it.
        deaths: how many of them died of it, as far as can be told.
        told: the result; ``None`` before, and after an error.
        error: why there is none, in words.
    """

    def __init__(self, task: Task, key: str) -> None:
        self.task = task
        self.key = key
        self.workers: list[str] = []
        self.deaths = 0
        self.told: Told | None = None
        self.error: str | None = None

    @property
    def landed(self) -> bool:
        """Whether it is over."""
        return self.told is not None or self.error is not None


class Flights:
    """Sends tasks, and hears from the scheduler's events what becomes of them.

    A result that waits on its worker is lost when the worker dies, and Dask would train it again:
    so results come as events, which are in the scheduler's hands before another task begins. And
    Dask suspects every task that a dying worker had, those that waited there too: so a task says
    when it begins, and only what was being trained is counted.

    Args:
        client: of the sweep's own.
        keep_trainers: have the trained laws sent, too.
    """

    def __init__(self, client: Client, keep_trainers: bool) -> None:
        self._client = client
        self._keep = keep_trainers
        self._flying: dict[str, Flight] = {}
        self._futures: dict[str, Any] = {}
        self._landed: queue.SimpleQueue[Flight] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._flying)

    def send(self, task: Task) -> None:
        """Hand a task to the scheduler."""
        key = f"train-{task.point.fingerprint[:32]}-{'trainer' if self._keep else 'result'}"
        flight = self._flying[key] = Flight(task, key)
        future = self._futures[key] = self._client.submit(
            train, task.point, key, self._keep, key=key, resources={"memory": task.declared},
            pure=False,
        )  # fmt: skip

        async def fetch() -> None:
            try:
                told: Told | None = await self._client.gather(future, asynchronous=True)
            except Exception as error:  # whatever a training raises is its result
                killed = type(error).__name__ == "KilledWorker"
                self._land(flight, error=_DIED if killed else f"{type(error).__name__}: {error}")
            except asyncio.CancelledError:
                self._land(flight, error="called off by somebody, or lost with the scheduler")
            else:
                if told is not None:
                    self._land(flight, told)

        loop: Any = self._client.loop
        loop.add_callback(fetch)

    def next(self, timeout: float) -> Flight | None:
        """The next one that is over; ``None`` if there was none in so many seconds."""
        with contextlib.suppress(queue.Empty):
            flight = self._landed.get(timeout=timeout)
            del self._flying[flight.key]
            self._futures.pop(flight.key).release()  # or Dask makes it again if its worker dies
            return flight
        return None

    def _land(self, flight: Flight, told: Told | None = None, error: str | None = None) -> None:
        """Called in the client's loop only: the first word counts."""
        if not flight.landed:
            flight.told, flight.error = told, error
            self._landed.put(flight)

    def _heard(self, event: tuple[float, Any]) -> None:
        message = event[1]
        flight = self._flying.get(message["key"])
        if flight is None:
            return
        if "result" in message:
            self._land(flight, Told(message["result"], None))
        else:
            flight.workers.append(message["worker"])

    def _happened(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if not isinstance(message, dict) or message.get("action") != "remove-worker":
            return
        if message.get("expected"):
            return
        had = [self._flying[key] for key in message["processing-tasks"] if key in self._flying]
        begun = [flight for flight in had if flight.workers[-1:] == [message.get("worker")]]
        for flight in begun or had:
            flight.deaths += 1
            if flight.deaths >= _MOST_ATTEMPTS:
                self._land(flight, error=_DIED)

    def __enter__(self) -> Self:
        self._client.subscribe_topic(TOPIC, self._heard)
        self._client.subscribe_topic("all", self._happened)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.unsubscribe_topic("all")
        self._client.unsubscribe_topic(TOPIC)
        for future in self._futures.values():
            future.release()
