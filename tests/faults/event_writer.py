"""What a process does that stores events and says which were acknowledged: run by tests, and killed."""

from collections.abc import Sequence
from io import StringIO
from multiprocessing.connection import Connection
from time import monotonic

from service.catalog.database import Database
from service.events.desk import EventDesk
from service.events.rows import Event
from service.events.store import EventStore
from service.logs import make_logger
from service.metrics import Metrics
from tests.service.fakes import settings

ROWS = 20


def events_of(name: str, request: int) -> list[Event]:
    """The events of one request."""
    return [
        Event(f"{name}-{request}-{row}", f"user-{name}-{row}", "drama", f"drama-{row}", "view", 1_000_000 * request)
        for row in range(ROWS)
    ]


def write(database: str, name: str, last: int, told: "Connection[int, None]") -> None:
    """Store requests 0, 1, ... up to ``last``, or until the process is killed; says each that was acknowledged."""
    opened = Database(database)
    desk = EventDesk(EventStore(opened, 1000), settings(), Metrics(), make_logger("error", StringIO()))
    desk.start()
    waiting: list[tuple[int, object]] = []
    for request in range(last):
        waiting.append((request, desk.put(events_of(name, request), monotonic() + 60)))
        if len(waiting) == 4:  # so that several requests are committed together
            _say(waiting, told)
            waiting = []
    _say(waiting, told)
    desk.stop()
    opened.close()
    told.close()


def _say(waiting: Sequence[tuple[int, object]], told: "Connection[int, None]") -> None:
    for request, future in waiting:
        outcomes = future.result(60)  # type: ignore[attr-defined]
        assert list(outcomes) == ["accepted"] * ROWS
        told.send(request)
