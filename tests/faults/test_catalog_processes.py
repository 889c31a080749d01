"""Processes that change one catalog are killed, and race each other: nothing that was acknowledged is ever lost."""

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.faults.catalog_writer import DOMAIN, Acknowledgement, start, write
from tests.postgres import Postgres
from tests.processes import PROCESSES


@dataclass
class Acknowledged:
    """What writers were told: the SID of every item that was registered, titles that were patched, deleted items."""

    sids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    patched: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)

    def read(self, told: "Connection[None, Acknowledgement]") -> None:
        """Take in all that a writer says until it ends or is killed."""
        while True:
            try:
                kind, item_id, about = told.recv()
            except EOFError:
                return
            if kind == "+":
                assert isinstance(about, tuple)
                self.sids[item_id] = about
            elif kind == "~":
                self.patched[item_id] = str(about)
            else:
                self.deleted.add(item_id)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "items.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop(url)


def writer(database: str, name: str, last: int) -> tuple[BaseProcess, "Connection[None, Acknowledgement]"]:
    told, say = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=write, args=(database, name, last, say))
    process.start()
    say.close()
    return process, told


def check(database: str, told: Acknowledged) -> None:
    """A service that starts on the database finds all that was acknowledged, and no SID twice."""
    live, store = start(database)
    catalog = live.catalog
    for item_id, sid in told.sids.items():
        number = catalog.find(DOMAIN, item_id)
        if item_id in told.deleted:
            assert number is None, item_id
        elif number is not None:
            assert catalog.sid(DOMAIN, number) == sid
            title = catalog.item(number).title
            assert title in ((told.patched[item_id],) if item_id in told.patched else (item_id, "patched"))
        else:  # its deletion was committed, and the process killed before it said so
            [row] = [row for row in store.load("tokenizer-a").items if row.item_id == item_id]
            assert row.deleted
    sids = [tuple(sid) for sid in catalog.sids(DOMAIN).tolist()]
    assert len(set(sids)) == len(sids)
    store.close()


def kill_writers(database: str, kills: int) -> None:
    told, chance = Acknowledged(), random.Random(0)
    for kill in range(kills):
        process, pipe = writer(database, f"k{kill}", 10**9)
        with pipe:
            assert pipe.poll(60)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            before = len(told.sids)
            told.read(pipe)
            assert len(told.sids) > before, "the writer was told of a change before it was killed"
        if kill % 10 == 9 or kill == kills - 1:
            check(database, told)


def test_no_acknowledged_change_is_lost_when_the_process_is_killed(database: str) -> None:
    kill_writers(database, 10)


@pytest.mark.long
def test_no_acknowledged_change_is_lost_when_the_process_is_killed_two_hundred_times(database: str) -> None:
    kill_writers(database, 200)


def test_processes_that_change_one_catalog_at_once_lose_nothing_and_give_no_sid_twice(database: str) -> None:
    told = Acknowledged()
    writers = [writer(database, name, 15) for name in ("a", "b", "c")]
    for process, pipe in writers:
        with pipe:
            told.read(pipe)
        process.join()
        assert process.exitcode == 0
    assert len(told.sids) == 45
    assert len(told.deleted) == 15
    assert len(set(told.sids.values())) == 45, "not even the SID of a deleted item is given again"
    check(database, told)
