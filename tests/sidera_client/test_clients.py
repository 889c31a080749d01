"""Both clients against the real app: asynchronously in this process, synchronously over a socket."""

import asyncio
import contextlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from service.recommend_schemas import RecommendRequest as ServiceRequest
from sidera_client import (
    ApiError,
    AsyncClient,
    BusyError,
    Client,
    ConnectionFailedError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    Retry,
    TimedOutError,
    UnexpectedAnswerError,
)
from sidera_client.answers import Recommendation
from sidera_client.models import Diversity, HistoryItem, Item, RecommendRequest, Sampling
from tests.service.fakes import FakeModel, serving
from tests.service.test_uvicorn import listening

Answer = TypeVar("Answer")


@contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes], seconds: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers, one a request; the last one for ever. Yields its address and what it saw."""
    waiting, seen = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            seen.append(self.path)
            time.sleep(seconds)
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client that waited too short a time is gone
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


INFO = b'{"bundle_version": "1", "catalog_version": 2, "domains": [], "limits": {}, "of_a_newer_version": 1}'
BUSY = b'{"error": {"code": "queue_full", "message": "full", "retryable": true}}'


def in_process(tmp_path: Path, ask: Callable[[AsyncClient], Awaitable[Answer]], **changes: Any) -> Answer:
    with serving(tmp_path / "items.db", FakeModel(), **changes) as service:

        async def run() -> Answer:
            transport = httpx.ASGITransport(app=service.app)
            async with AsyncClient("http://test", api_key="secret", transport=transport) as client:
                return await ask(client)

        return asyncio.run(run())


def test_the_asynchronous_client_asks_every_route(tmp_path: Path) -> None:
    async def ask(client: AsyncClient) -> None:
        assert await client.live()
        assert await client.ready()
        info = await client.info()
        assert {domain.name: domain.items for domain in info.domains} == {"comedy": 3, "drama": 6}
        found = await client.recommend("drama", ["drama-0", HistoryItem("comedy-1", "comedy")], num_results=2)
        assert [item.item_id for item in found.items] == ["drama-1", "drama-2"]
        assert found.catalog_version == info.catalog_version
        assert (await client.validate("drama", ["drama-0", "nothing"])).missing_ids == ("nothing",)
        rows = await client.recommend_batch([RecommendRequest("drama", num_results=1), RecommendRequest("opera")])
        assert isinstance(rows[0], Recommendation)
        assert isinstance(rows[1], ApiError)
        assert rows[1].code == "unknown_domain"
        tokenized = await client.tokenize("drama", [Item("new", {"title": "A new one"})], register=True)
        assert tokenized.items[0].registered
        changed = await client.patch_item("drama", "new", {"title": "Another title"})
        assert (changed.sid, changed.fields["title"]) == (tokenized.items[0].sid, "Another title")
        assert (await client.hide_item("drama", "new")).hidden
        assert not (await client.show_item("drama", "new")).hidden
        assert (await client.item("drama", "new")).item_id == "new"
        assert (await client.delete_item("drama", "new")).item_id == "new"
        with pytest.raises(NotFoundError):
            await client.item("drama", "new")

    in_process(tmp_path, ask)


def test_the_synchronous_client_asks_every_route_over_a_socket(tmp_path: Path) -> None:
    with listening(tmp_path, FakeModel()) as port, Client(f"http://127.0.0.1:{port}") as client:
        assert client.live()
        assert client.ready()
        assert {domain.name for domain in client.info().domains} == {"comedy", "drama"}
        assert client.recommend("drama", exclude=["drama-0"], num_results=1).items[0].item_id == "drama-1"
        rows = client.recommend_batch([RecommendRequest("opera"), RecommendRequest("drama")])
        assert [isinstance(row, Recommendation) for row in rows] == [False, True]
        assert client.validate("drama").tokens > 0
        odd = "a/b c?#%"
        assert client.tokenize("drama", [Item(odd, {"title": "A new one"})], register=True).items[0].sid is not None
        assert client.patch_item("drama", odd, {"year": 1990}, retokenize=True).fields["year"] == 1990
        assert client.hide_item("drama", odd).hidden
        assert not client.show_item("drama", odd).hidden
        assert client.item("drama", odd).item_id == odd
        assert client.delete_item("drama", odd) == client.delete_item("drama", odd)


def test_errors_are_typed_and_say_what_the_service_said(tmp_path: Path) -> None:
    async def ask(client: AsyncClient) -> None:
        with pytest.raises(NotFoundError) as unknown:
            await client.recommend("opera")
        assert (unknown.value.code, unknown.value.field, unknown.value.status) == ("unknown_domain", "domain", 404)
        assert "opera" in unknown.value.message
        assert unknown.value.request_id
        with pytest.raises(InvalidRequestError, match="num_results") as invalid:
            await client.recommend("drama", num_results=0)
        assert not invalid.value.retryable

    in_process(tmp_path, ask)


def test_a_wrong_key_is_not_allowed_in_and_the_right_one_is(tmp_path: Path) -> None:
    async def refused(client: AsyncClient) -> None:
        with pytest.raises(NotAllowedError):
            await client.info()

    in_process(tmp_path, refused, api_keys="other")
    in_process(tmp_path, lambda client: client.info(), api_keys="secret")


def test_a_busy_service_is_asked_again() -> None:
    with answering((429, {"retry-after": "0"}, BUSY), (200, {}, INFO)) as (url, seen), Client(url) as client:
        assert client.info().catalog_version == 2
        assert seen == ["/v1/info", "/v1/info"]


def test_a_busy_service_is_given_up_with_its_own_error_when_waiting_would_take_too_long() -> None:
    with answering((429, {"retry-after": "60"}, BUSY)) as (url, seen), Client(url, timeout=5) as client:
        with pytest.raises(BusyError) as raised:
            client.info()
        assert raised.value.retry_after == 60.0
        assert len(seen) == 1


def test_a_slow_service_is_given_up_in_time() -> None:
    with answering((200, {}, INFO), seconds=0.5) as (url, seen), Client(url, timeout=0.05) as client:
        with pytest.raises(TimedOutError):
            client.info()

        async def ask() -> None:
            async with AsyncClient(url, timeout=0.05) as other:
                with pytest.raises(TimedOutError):
                    await other.info()

        asyncio.run(ask())
        assert len(seen) == 2


def test_a_proxys_own_answer_is_retried_when_the_service_is_away() -> None:
    page = (502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>")
    quick = Retry(first_pause=0.0)
    with answering(page, (200, {}, INFO)) as (url, _), Client(url, retry=quick) as client:
        assert client.info().bundle_version == "1"
    with answering(page) as (url, seen), Client(url, retry=quick) as client:
        with pytest.raises(ApiError, match="502"):
            client.info()
        assert len(seen) == quick.attempts


def test_what_is_not_the_service_is_named() -> None:
    with answering((200, {}, b'{"hello": "world"}')) as (url, _), Client(url) as client:
        with pytest.raises(UnexpectedAnswerError, match="bundle_version"):
            client.info()
        assert client.live()


def test_nobody_there_is_one_error_of_ours_and_not_alive() -> None:
    with Client("http://127.0.0.1:9", retry=Retry(attempts=2, first_pause=0.0)) as client:
        assert not client.live()
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:9"):
            client.info()


class Listening(httpx.BaseTransport):
    """Notes the deadline of every request."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.seen: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.headers["X-Sidera-Deadline-Ms"])
        return self._inner.handle_request(request)


def test_the_service_is_told_how_long_the_client_waits() -> None:
    transport = Listening()
    with answering((200, {}, INFO)) as (url, _), Client(url, timeout=1.5, transport=transport) as client:
        client.info()
    assert 1000 < int(transport.seen[0]) <= 1500


def test_every_field_of_a_request_is_one_that_the_service_reads() -> None:
    full = RecommendRequest(
        "d",
        ["i", HistoryItem("j", "e")],
        allow=["k"],
        filters={"year": {"min": 1990}},
        diversity=Diversity(2),
        sampling=Sampling(7),
        beam_width=3,
        explain=True,
    )
    assert set(full.as_json()) | {"validate_only", "user_id"} == set(ServiceRequest.model_fields)
    ServiceRequest.model_validate(RecommendRequest("drama", user_id="anna").as_json())
    read = ServiceRequest.model_validate(full.as_json()).model_dump(exclude_none=True)
    assert read == full.as_json() | {"validate_only": False}
    assert ServiceRequest.model_validate(RecommendRequest("d").as_json()) == ServiceRequest(domain="d")


def test_the_client_needs_neither_pytorch_nor_the_other_packages() -> None:
    program = (
        "import sys; sys.modules.update({name: None for name in ('torch', 'sidera', 'service', 'training')}); "
        "import sidera_client, sidera_client.cli"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
