"""What other processes change arrives by itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest

from service.catalog.follower import CatalogFollower, Followed
from service.errors import StoreUnavailableError
from service.logs import make_logger
from tests.service.catalog.world import World, new


class Counted:
    """A catalog whose database answers or not; ``asked`` is released once a question."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.failure: Exception | None = None

    def refresh(self) -> bool:
        self.asked.release()
        if self.failure is not None:
            raise self.failure
        return True


@contextmanager
def following(catalog: Followed, log: StringIO) -> Iterator[None]:
    follower = CatalogFollower(catalog, make_logger("info", log), seconds=0.01)
    follower.start()
    yield
    assert follower.stop()


def test_what_another_process_changed_arrives_without_being_asked_for(world: World) -> None:
    one, other = world.start(), world.start()
    arrived = threading.Event()

    class Watched:
        def refresh(self) -> bool:
            changed = other.refresh()
            if other.catalog.find("drama", "x") is not None:
                arrived.set()
            return changed

    with following(Watched(), StringIO()):
        one.register("drama", [new("x")])
        assert arrived.wait(20)


@pytest.mark.parametrize("failure", [StoreUnavailableError("down"), ValueError("odd")])
def test_a_database_that_does_not_answer_is_asked_again_and_logged_once(failure: Exception) -> None:
    catalog, log = Counted(), StringIO()
    catalog.failure = failure
    with following(catalog, log):
        for _ in range(3):
            assert catalog.asked.acquire(timeout=20)
        catalog.failure = None
        while "follows the database again" not in log.getvalue():
            assert catalog.asked.acquire(timeout=20)
    lines = log.getvalue().splitlines()
    assert ["does not follow" in line for line in lines] == [True, False]


def test_a_stopped_follower_asks_no_more_and_one_that_never_began_can_be_stopped() -> None:
    catalog = Counted()
    CatalogFollower(catalog, make_logger("info", StringIO())).stop()
    with following(catalog, StringIO()):
        assert catalog.asked.acquire(timeout=20)
    while catalog.asked.acquire(blocking=False):
        pass
    assert not catalog.asked.acquire(timeout=0.05)
    assert "catalog-follower" not in {thread.name for thread in threading.enumerate()}
