"""Processes that store events are killed, and race each other: no acknowledged event is lost, none counts twice."""

import random
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest

from service.catalog.database import Database
from service.events.store import EventStore
from tests.faults.event_writer import ROWS, events_of, write
from tests.processes import PROCESSES
from tests.service.catalog.conftest import database

__all__ = ["database"]


def writer(database: str, name: str, last: int) -> "tuple[BaseProcess, Connection[None, int]]":
    told, say = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=write, args=(database, name, last, say))
    process.start()
    say.close()
    return process, told


def acknowledged(told: "Connection[None, int]") -> list[int]:
    requests = []
    while True:
        try:
            requests.append(told.recv())
        except EOFError:
            return requests


def check(database: str, told: dict[str, list[int]]) -> None:
    """What was acknowledged is there once, and sending it again changes nothing."""
    opened = Database(database)
    store = EventStore(opened, 1000)
    found = store.since(0, page=10**9)
    assert found is not None
    times = {(event.user_id, event.happened_us) for event in found.events}
    assert len(times) == len(found.events)
    for name, requests in told.items():
        for request in requests:
            assert {(event.user_id, event.happened_us) for event in events_of(name, request)} <= times
    name, requests = next(iter(told.items()))
    assert store.add(events_of(name, requests[0])) == ["duplicate"] * ROWS
    opened.close()


def kill_writers(database: str, kills: int) -> None:
    told: dict[str, list[int]] = {}
    chance = random.Random(0)
    for kill in range(kills):
        process, pipe = writer(database, f"k{kill}", 10**9)
        with pipe:
            assert pipe.poll(60)
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            told[f"k{kill}"] = acknowledged(pipe)
            assert told[f"k{kill}"], "the writer was told of events before it was killed"
    check(database, told)


def test_no_acknowledged_event_is_lost_when_the_process_is_killed(database: str) -> None:
    kill_writers(database, 3)


@pytest.mark.long
def test_no_acknowledged_event_is_lost_when_the_process_is_killed_two_hundred_times(database: str) -> None:
    kill_writers(database, 200)


def test_processes_that_store_events_at_once_lose_none(database: str) -> None:
    told = {}
    writers = {name: writer(database, name, 10) for name in ("a", "b")}
    for name, (process, pipe) in writers.items():
        with pipe:
            told[name] = acknowledged(pipe)
        process.join()
        assert process.exitcode == 0
    assert {name: len(requests) for name, requests in told.items()} == {"a": 10, "b": 10}
    check(database, told)
