"""A catalog that is read anew numbers its items anew: nothing that was counted under other numbers is used on it.

Each test stops the world at one moment by a hook, and lets the other thread's work happen there.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from service.bundles.generation import Generation, GenerationBuilder
from service.catalog.live import Patch
from service.catalog.store import SqlStore
from service.events.counting import Counting
from service.events.store import EventStore
from service.logs import make_logger
from service.metrics import Metrics
from sidera.items.transitions import TransitionDelta, TransitionRule
from sidera.recommender import Query
from tests.service.catalog.world import new
from tests.service.events.made_up import event
from tests.service.fakes import FakeModel, settings


@dataclass
class World:
    """A bundle that serves two items that joined after it was trained, and what users did with the first of them."""

    model: FakeModel
    store: SqlStore
    generation: Generation

    def memory_of(self) -> dict[tuple[str, str], float]:
        """What the model was told: by the ids of items before and after."""
        name = self.model.catalog.name
        return {(name(before)[0], name(after)[0]): count for before, after, count in self.model.learnt}

    def go_back(self) -> None:
        """The database is one of before, in which the two items joined in the other order."""
        with self.store.database.writing() as connection:
            connection.exec_driver_sql("UPDATE catalog_items SET added_version = 9 WHERE item_id = 'x'")
            connection.exec_driver_sql("UPDATE catalog_state SET catalog_version = 1")

    def learn(self) -> None:
        learning = self.generation.learning
        assert learning is not None
        learning.refresh()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    counting = Counting(TransitionRule(window=2), {"drama": None, "comedy": None})
    model, store = FakeModel(counting=counting), SqlStore(str(tmp_path / "items.db"))
    log = make_logger("error", StringIO())
    builder = GenerationBuilder(settings(), Metrics(), log, threading.Event(), lambda serving: None)
    generation = builder.build("one", model, store, lambda step: None)
    generation.catalog.register("drama", [new("x")])
    generation.catalog.register("drama", [new("y")])
    EventStore(store.database, 100).add([event("a", "anna", "drama-0", 20), event("b", "anna", "x", 21)])
    yield World(model, store, generation)
    generation.stop()
    store.close()


WHAT_ANNA_DID = {("drama-0", "x"), ("x", "drama-0")}


def test_a_round_of_learning_between_the_new_numbers_and_the_catalog_that_shows_them(world: World) -> None:
    world.learn()
    assert set(world.memory_of()) == WHAT_ANNA_DID
    number = world.generation.catalog.catalog.find("drama", "x")
    world.go_back()
    catalog, seen = world.generation.catalog, list[object]()
    prepare = catalog._prepare_swap

    def prepared(*arguments: object) -> object:
        swap = prepare(*arguments)  # type: ignore[arg-type]

        def then_learn() -> None:
            swap()
            world.learn()
            seen.append(world.memory_of())

        return then_learn

    catalog._prepare_swap = prepared  # type: ignore[assignment]
    assert catalog.refresh()
    assert catalog.catalog.find("drama", "x") != number, "the items got other numbers"
    assert seen == [{}], "what was counted under the old numbers is not used on the new ones"
    world.learn()
    assert set(world.memory_of()) == WHAT_ANNA_DID


def test_counts_that_are_on_their_way_to_the_model_when_the_numbers_change(world: World) -> None:
    assert world.generation.learning is not None
    memory = world.generation.learning.memory
    use, catalog = memory._use, world.generation.catalog

    def after_the_change(delta: TransitionDelta, now: float, numbering: int) -> None:
        memory._use = use
        world.go_back()
        assert catalog.refresh()
        use(delta, now, numbering)

    memory._use = after_the_change
    world.learn()
    assert world.memory_of() == {}
    world.learn()
    assert set(world.memory_of()) == WHAT_ANNA_DID


def test_a_fold_that_runs_while_the_catalog_is_read_anew(world: World) -> None:
    world.learn()
    catalog, went_back = world.generation.catalog, list[bool]()

    def meanwhile() -> None:
        if not went_back:
            went_back.append(True)
            world.go_back()
            assert catalog.refresh()
            catalog.patch("drama", "y", Patch({"title": "Another"}))

    catalog.fold(meanwhile)
    world.learn()
    assert set(world.memory_of()) == WHAT_ANNA_DID
    assert catalog.item("drama", "y").fields["title"] == "Another"
    answer = world.generation.recommender.submit([Query("drama", num_results=9)], math.inf)[0].result()
    assert {"x", "y"} <= {item.item_id for item in answer.recommendation.items}
