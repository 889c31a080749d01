"""Loads a service for a bounded time, and tells what came of every request. Times are in seconds.

- Closed loop: N clients, each sends its next request when its last one is answered. It shows what a service can do.
- Open loop: requests arrive at random (Poisson) at a given rate, whether or not earlier ones are answered, as users
  do. A request's time counts from when it was to be sent, so a service that stalls is not asked less (coordinated
  omission).
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sidera_client.errors import ClientError
from sidera_client.wire import Connection, Reply, Target

CONNECTION_FAILED = "connection failed"
TIMED_OUT = "timed out"
NO_CONNECTION = "no connection left"


@dataclass(frozen=True, slots=True)
class Shot:
    """One request, as bytes."""

    request: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request.

    Attributes:
        kind: the status as text, or why there is none.
        begun: when it was (to be) sent, since the load began.
        seconds: until its whole answer was there, or until it failed.
    """

    kind: str
    begun: float
    seconds: float


@dataclass(frozen=True)
class Load:
    """All that came of a load.

    Attributes:
        outcomes: in the order in which they ended.
        seconds: how long requests were sent.
        cpu_seconds: processor time of this process meanwhile.
    """

    outcomes: Sequence[Outcome]
    seconds: float
    cpu_seconds: float

    @property
    def client_cores(self) -> float:
        """How many cores this process took."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0


OnReply = Callable[[Shot, Reply], None]


def _ignore(shot: Shot, reply: Reply) -> None:
    pass


@dataclass
class Loader:
    """Sends requests to one service.

    Attributes:
        target: where it is.
        timeout: seconds after which a request is given up.
        most_connections: of the open loop; a request that finds none free is told as ``NO_CONNECTION``.
        on_reply: called with every request and its answer.
    """

    target: Target
    timeout: float = 30.0
    most_connections: int = 1024
    on_reply: OnReply = _ignore
    _idle: list[Connection] = field(default_factory=list)
    _open: int = 0

    async def closed(self, shots: Iterator[Shot], clients: int, seconds: float) -> Load:
        """Keep ``clients`` requests under way for so long."""
        begun, cpu = time.perf_counter(), time.process_time()
        outcomes: list[Outcome] = []

        async def client() -> None:
            while time.perf_counter() - begun < seconds:
                sent = time.perf_counter()
                kind = await self._shoot(next(shots))
                ended = time.perf_counter()
                outcomes.append(Outcome(kind, sent - begun, ended - sent))
                if kind == CONNECTION_FAILED:
                    await asyncio.sleep(0.05)  # a service that is gone is not asked in a busy loop

        await asyncio.gather(*(client() for _ in range(clients)))
        return self._ended(outcomes, begun, cpu)

    async def open(self, shots: Iterator[Shot], rate: float, seconds: float, seed: int = 0) -> Load:
        """Send ``rate`` requests a second at random times for so long."""
        begun, cpu = time.perf_counter(), time.process_time()
        outcomes: list[Outcome] = []
        running: set[asyncio.Task[None]] = set()

        async def arrival(due: float) -> None:
            kind = await self._shoot(next(shots))
            outcomes.append(Outcome(kind, due, time.perf_counter() - begun - due))

        for due in _arrivals(rate, seconds, seed):
            wait = due - (time.perf_counter() - begun)
            # Arrivals that are late already still let answers be read in between.
            await asyncio.sleep(max(wait, 0.0))
            task = asyncio.create_task(arrival(due))
            running.add(task)
            task.add_done_callback(running.discard)
        load_seconds = time.perf_counter() - begun
        await asyncio.gather(*running)
        ended = self._ended(outcomes, begun, cpu)
        return Load(ended.outcomes, load_seconds, ended.cpu_seconds)

    def close(self) -> None:
        """Hang up."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _shoot(self, shot: Shot) -> str:
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connection()
                if connection is None:
                    return NO_CONNECTION
                try:
                    reply = await connection.ask(shot.request)
                finally:
                    self._put_back(connection)
        except TimeoutError:
            return TIMED_OUT
        except ClientError:
            return CONNECTION_FAILED
        self.on_reply(shot, reply)
        return str(reply.status)

    async def _connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._open -= 1
        if self._open >= self.most_connections:
            return None
        self._open += 1
        try:
            return await Connection.open(self.target)
        except BaseException:
            self._open -= 1
            raise

    def _put_back(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)
        else:
            self._open -= 1

    def _ended(self, outcomes: Sequence[Outcome], begun: float, cpu: float) -> Load:
        return Load(outcomes, time.perf_counter() - begun, time.process_time() - cpu)


def repeated(shots: Sequence[Shot]) -> Iterator[Shot]:
    """The same requests over and over."""
    return itertools.cycle(shots)


def _arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Times of a Poisson process of so many arrivals a second."""
    draw, due = random.Random(seed), 0.0
    while True:
        due += draw.expovariate(rate)
        if due >= seconds:
            return
        yield due
