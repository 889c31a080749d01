"""With a bundle that knows a half-life, what happened long ago counts less, also after a restart."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.model import BundleModel
from sidera.items.neighbours import Shares
from sidera.items.transitions import TransitionRule
from sidera.loading import load_bundle
from tests.service.events.made_up import body
from tests.service.fakes import serving

DAY = 86_400.0


@contextmanager
def served(bundle: Path, database: Path, now: float) -> Iterator[TestClient]:
    """A bundle whose transitions lose half of their counts a day; it was trained before all events of the test."""
    loaded = load_bundle(bundle, "cpu")
    neighbours = loaded.recommender.neighbours
    assert neighbours is not None
    loaded.recommender.replace_neighbours(
        replace(
            neighbours,
            shares=dict.fromkeys(neighbours.shares, Shares(transitions=0.5)),
            routers={},
            rule=TransitionRule(half_life_days=1.0, reference=now),
            trained_until=dict.fromkeys(neighbours.trained_until),
        )
    )
    with serving(database, BundleModel(loaded), event_memory_seconds=0.05) as client:  # type: ignore[arg-type]
        yield client


def learn(client: TestClient, rows: list[dict[str, Any]]) -> None:
    """Send events, and wait until memory has what they teach."""
    answer = client.post("/events", json={"events": rows})
    assert {row["outcome"] for row in answer.json()["results"]} == {"accepted"}
    ends = time.monotonic() + 20
    while "sidera_event_memory_transitions 4.0" not in client.get("/metrics").text:
        assert time.monotonic() < ends
        time.sleep(0.01)


def scores(client: TestClient, domain: str, item_id: str) -> dict[str, float]:
    history = [{"item_id": item_id}]
    answer = client.post("/recommend", json={"domain": domain, "history": history, "num_results": 50})
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


@pytest.mark.parametrize("old", [0, 1])
def test_of_two_followers_the_newer_one_counts_more_and_a_restart_counts_the_same(
    tiny_bundle: Path, tmp_path: Path, old: int
) -> None:
    now = time.time()
    catalog = load_bundle(tiny_bundle, "cpu").recommender.catalog
    domain = catalog.domains[0]
    first, *two = (catalog.name(int(number))[0] for number in catalog.index(domain).number_of_leaf[[0, -1, -2]])

    def rows(days: list[float]) -> list[dict[str, Any]]:
        return [
            body(f"{user}-{second}", f"user-{user}", item_id, now - age * DAY - 10 + second, domain=domain)
            for user, (age, follower) in enumerate(zip(days, two, strict=True))
            for second, item_id in enumerate([first, follower])
        ]

    with served(tiny_bundle, tmp_path / "even.db", now) as client:
        learn(client, rows([0.0, 0.0]))
        even = scores(client, domain, first)
    with served(tiny_bundle, tmp_path / "items.db", now) as client:
        learn(client, rows([3.0 * (place == old) for place in range(2)]))
        faded = scores(client, domain, first)
    with served(tiny_bundle, tmp_path / "items.db", now) as client:
        again = scores(client, domain, first)
    lost, won = two[old], two[1 - old]
    assert faded[lost] < even[lost] - 0.01
    assert faded[won] > even[won] + 0.001
    assert again == pytest.approx(faded, abs=1e-5), "step by step and anew give the same"
