"""Signals and ports of a real process."""

import contextlib
import gc
import http.client
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.serving import settle
from tests.processes import Forked
from tests.service import served as service_process


class Served:
    """A running service."""

    def __init__(self, process: Forked) -> None:
        self._process = process
        self.port, self.admin_port = map(int, process.output.readline().split())
        self._wait_for("Sidera serves at")

    def _wait_for(self, text: str) -> None:
        for line in self._process.output:
            if text in line:
                return
        raise AssertionError(f"the process ended without {text!r}")

    def computing(self) -> None:
        """Wait until a slow request is being computed."""
        self._wait_for("computing")

    def ask(self, method: str, path: str, body: object = None, *, admin: bool = False) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port if admin else self.port, timeout=30)
        headers = {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def terminate(self) -> None:
        self._process.terminate()

    def ended(self) -> int:
        return self._process.ended()


Serve = Callable[..., Served]


class Cycle:
    """Something that only the collector frees."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_frozen_is_collected_once_nobody_holds_it() -> None:
    kept, dropped = Cycle(), Cycle()
    seen = weakref.ref(kept), weakref.ref(dropped)
    try:
        gc.freeze()
        del dropped
        settle()
        assert (seen[0]() is kept, seen[1]()) == (True, None)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start processes; the arguments are the seconds of a slow request, and settings."""
    with contextlib.ExitStack() as stack:

        def start(seconds: float = 0.0, **changes: object) -> Served:
            given = [f"{name}={value}" for name, value in changes.items()]
            database = str(tmp_path / "items.db")
            return Served(stack.enter_context(Forked(service_process.main, database, str(seconds), *given)))

        yield start


def asking(served: Served) -> tuple[threading.Thread, list[tuple[int, dict[str, Any]]]]:
    """A slow request that is being computed."""
    answers: list[tuple[int, dict[str, Any]]] = []
    body = {"domain": "drama", "num_results": 7}
    thread = threading.Thread(target=lambda: answers.append(served.ask("POST", "/recommend", body)))
    thread.start()
    served.computing()
    return thread, answers


def test_sigterm_finishes_what_runs_takes_no_new_connection_and_ends_with_0(serve: Serve) -> None:
    served = serve(1.0)
    thread, answers = asking(served)
    served.terminate()
    begun = time.monotonic()
    while True:
        try:
            served.ask("GET", "/health/live")
        except ConnectionError:
            break
        assert time.monotonic() - begun < 20
    thread.join(30)
    assert answers[0][0] == 200
    assert served.ended() == 0


def test_after_sigterm_it_is_not_ready_at_once_but_answers_until_the_delay_is_over(serve: Serve) -> None:
    served = serve(shutdown_delay_seconds=2)
    assert served.ask("GET", "/health/ready")[0] == 200
    served.terminate()
    begun = time.monotonic()
    while served.ask("GET", "/health/ready")[0] != 503:
        assert time.monotonic() - begun < 20
    assert served.ask("GET", "/health/live")[0] == 200
    assert served.ask("POST", "/recommend", {"domain": "drama"})[0] == 200
    assert served.ended() == 0


def test_connections_are_asked_to_end_once_the_service_is_to_stop(serve: Serve) -> None:
    served = serve(shutdown_delay_seconds=2)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("GET", "/health/live")
    first = connection.getresponse()
    first.read()
    assert first.getheader("connection") != "close"
    served.terminate()
    begun = time.monotonic()
    while served.ask("GET", "/health/ready")[0] != 503:
        assert time.monotonic() - begun < 20
    connection.request("GET", "/health/live")
    last = connection.getresponse()
    last.read()
    assert last.getheader("connection") == "close"
    connection.close()
    assert served.ended() == 0


def test_what_outlives_the_grace_period_is_cut_off_and_the_exit_code_says_so(serve: Serve) -> None:
    served = serve(50.0, grace_seconds=1.5)
    body = {"domain": "drama", "num_results": 7}

    def ask() -> None:
        with contextlib.suppress(ConnectionError, http.client.HTTPException, json.JSONDecodeError):
            served.ask("POST", "/recommend", body)

    thread = threading.Thread(target=ask)
    thread.start()
    served.computing()
    served.terminate()
    assert served.ended() == 1
    thread.join(20)


def test_the_admin_port_alone_has_the_admin_routes_and_the_probes_that_are_put_there(serve: Serve) -> None:
    served = serve(admin_port=0, probes_on="admin")
    assert served.ask("GET", "/admin/bundles", admin=True)[0] == 200
    assert served.ask("GET", "/admin/bundles")[0] == 404
    assert served.ask("GET", "/health/ready", admin=True)[0] == 200
    assert served.ask("GET", "/health/ready")[0] == 404
    assert served.ask("POST", "/recommend", {"domain": "drama"}, admin=True)[0] == 404
    served.terminate()
    assert served.ended() == 0


def test_probes_on_the_admin_port_answer_until_the_last_request_is_finished(serve: Serve) -> None:
    served = serve(1.5, admin_port=0, probes_on="both")
    thread, answers = asking(served)
    served.terminate()
    begun = time.monotonic()
    while served.ask("GET", "/health/ready", admin=True)[0] != 503:
        assert time.monotonic() - begun < 20
    assert served.ask("GET", "/health/live", admin=True)[0] == 200
    thread.join(30)
    assert answers[0][0] == 200
    assert served.ended() == 0


def test_without_an_admin_port_there_are_no_admin_routes(serve: Serve) -> None:
    served = serve()
    assert served.ask("GET", "/admin/bundles")[0] == 404
    assert served.ask("POST", "/admin/bundles/activate", {"version": "x"})[0] == 404
    served.terminate()
    assert served.ended() == 0
