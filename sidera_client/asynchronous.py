"""The client for asyncio: the methods of ``Client`` as coroutines."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from sidera_client import calls
from sidera_client.answers import (
    CatalogItem,
    Deleted,
    DeletedUser,
    EventsStored,
    Info,
    Recommendation,
    Tokenized,
    UserHistory,
    Validation,
)
from sidera_client.calls import Call
from sidera_client.errors import ApiError, ClientError, ConnectionFailedError, UnavailableError
from sidera_client.models import Event, History, Item, RecommendRequest
from sidera_client.retries import Pause, Retry, steps_of, timed_out
from sidera_client.synchronous import connection_failed, key_header, outcome_of

Read = TypeVar("Read")


class AsyncClient:
    """Asks one service. Close it, or use it in an ``async with`` statement; arguments and errors are ``Client``'s."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout = timeout
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(base_url=url, headers=key_header(api_key), transport=transport, timeout=timeout)

    async def recommend(self, domain: str, history: History = (), **fields: Any) -> Recommendation:
        """The next items of a user; ``fields`` are those of ``RecommendRequest``."""
        return await self.call(calls.recommend(RecommendRequest(domain, history, **fields)))

    async def validate(self, domain: str, history: History = (), **fields: Any) -> Validation:
        """Check a request without computing it."""
        return await self.call(calls.validate(RecommendRequest(domain, history, **fields)))

    async def recommend_batch(self, requests: Sequence[RecommendRequest]) -> list[Recommendation | ApiError]:
        """Several at once; a row that failed is an error in its place, and raises nothing."""
        return await self.call(calls.recommend_batch(requests))

    async def tokenize(self, domain: str, items: Sequence[Item], *, register: bool = False) -> Tokenized:
        """The semantic IDs of items; with ``register`` they join the catalog."""
        return await self.call(calls.tokenize(domain, items, register))

    async def item(self, domain: str, item_id: str) -> CatalogItem:
        """One item of the catalog."""
        return await self.call(calls.item(domain, item_id))

    async def patch_item(
        self, domain: str, item_id: str, fields: Mapping[str, Any] | None = None, *, retokenize: bool = False
    ) -> CatalogItem:
        """Replace fields of an item; None removes one. It keeps its semantic ID unless ``retokenize`` is asked for."""
        return await self.call(calls.patch_item(domain, item_id, fields or {}, None, retokenize))

    async def hide_item(self, domain: str, item_id: str) -> CatalogItem:
        """Let an item come back no more until it is shown."""
        return await self.call(calls.patch_item(domain, item_id, {}, True, False))

    async def show_item(self, domain: str, item_id: str) -> CatalogItem:
        """Let a hidden item come back again."""
        return await self.call(calls.patch_item(domain, item_id, {}, False, False))

    async def delete_item(self, domain: str, item_id: str) -> Deleted:
        """Take an item out of the catalog for good; again, the answer is the same."""
        return await self.call(calls.delete_item(domain, item_id))

    async def send_events(self, events: Sequence[Event]) -> EventsStored:
        """Tell what users did; each event is answered by itself, and one that is sent again counts once."""
        return await self.call(calls.send_events(events))

    async def user_history(self, user_id: str) -> UserHistory:
        """What is stored of a user."""
        return await self.call(calls.user_history(user_id))

    async def delete_user(self, user_id: str) -> DeletedUser:
        """Forget a user; again, the answer is the same."""
        return await self.call(calls.delete_user(user_id))

    async def info(self) -> Info:
        """What is served."""
        return await self.call(calls.info())

    async def live(self) -> bool:
        """Whether the service lives; asked once, without retries."""
        return await self._asked("live")

    async def ready(self) -> bool:
        """Whether the service is ready; asked once, without retries."""
        return await self._asked("ready")

    async def call(self, call: Call[Read]) -> Read:
        """Make one call of ``sidera_client.calls``."""
        return await self._call(call, self._retry)

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _asked(self, which: str) -> bool:
        try:
            await self._call(calls.health(which), Retry(attempts=1))
        except (UnavailableError, ConnectionFailedError):
            return False
        return True

    async def _call(self, call: Call[Read], retry: Retry) -> Read:
        steps = steps_of(retry, self._timeout)
        outcome: httpx.Response | ClientError | None = None
        try:
            while True:
                step = steps.send(outcome)
                outcome = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    outcome = await self._send(call, step.seconds)
        except StopIteration as stop:
            response: httpx.Response = stop.value
            return call.read(response)

    async def _send(self, call: Call[Any], seconds: float) -> httpx.Response | ClientError:
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.request(
                    call.method, call.path, content=call.body, headers=call.headers(seconds)
                )
            return outcome_of(response, response.content)
        except TimeoutError:
            return timed_out(self._timeout)
        except httpx.TransportError as error:
            return connection_failed(self._http.base_url, error)
