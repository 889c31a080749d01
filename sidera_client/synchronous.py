"""The client for ordinary code. It may be shared by threads."""

import time
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

Read = TypeVar("Read")


class Client:
    """Asks one service. Close it, or use it in a ``with`` statement.

    Every method raises a ``ClientError`` (see ``sidera_client.errors``) after its retries.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Args:
        url: where the service is, such as ``http://127.0.0.1:8000``.
        api_key: sent with every request.
        timeout: seconds of one call, all its retries and pauses included.
        retry: how often and how soon to try again.
        transport: what carries requests; the network if None.
        """
        self._timeout = timeout
        self._retry = retry or Retry()
        self._http = httpx.Client(base_url=url, headers=key_header(api_key), transport=transport, timeout=timeout)

    def recommend(self, domain: str, history: History = (), **fields: Any) -> Recommendation:
        """The next items of a user; ``fields`` are those of ``RecommendRequest``."""
        return self.call(calls.recommend(RecommendRequest(domain, history, **fields)))

    def validate(self, domain: str, history: History = (), **fields: Any) -> Validation:
        """Check a request without computing it."""
        return self.call(calls.validate(RecommendRequest(domain, history, **fields)))

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> list[Recommendation | ApiError]:
        """Several at once; a row that failed is an error in its place, and raises nothing."""
        return self.call(calls.recommend_batch(requests))

    def tokenize(self, domain: str, items: Sequence[Item], *, register: bool = False) -> Tokenized:
        """The semantic IDs of items; with ``register`` they join the catalog."""
        return self.call(calls.tokenize(domain, items, register))

    def item(self, domain: str, item_id: str) -> CatalogItem:
        """One item of the catalog."""
        return self.call(calls.item(domain, item_id))

    def patch_item(
        self, domain: str, item_id: str, fields: Mapping[str, Any] | None = None, *, retokenize: bool = False
    ) -> CatalogItem:
        """Replace fields of an item; None removes one. It keeps its semantic ID unless ``retokenize`` is asked for."""
        return self.call(calls.patch_item(domain, item_id, fields or {}, None, retokenize))

    def hide_item(self, domain: str, item_id: str) -> CatalogItem:
        """Let an item come back no more until it is shown."""
        return self.call(calls.patch_item(domain, item_id, {}, True, False))

    def show_item(self, domain: str, item_id: str) -> CatalogItem:
        """Let a hidden item come back again."""
        return self.call(calls.patch_item(domain, item_id, {}, False, False))

    def delete_item(self, domain: str, item_id: str) -> Deleted:
        """Take an item out of the catalog for good; again, the answer is the same."""
        return self.call(calls.delete_item(domain, item_id))

    def send_events(self, events: Sequence[Event]) -> EventsStored:
        """Tell what users did; each event is answered by itself, and one that is sent again counts once."""
        return self.call(calls.send_events(events))

    def user_history(self, user_id: str) -> UserHistory:
        """What is stored of a user."""
        return self.call(calls.user_history(user_id))

    def delete_user(self, user_id: str) -> DeletedUser:
        """Forget a user; again, the answer is the same."""
        return self.call(calls.delete_user(user_id))

    def info(self) -> Info:
        """What is served."""
        return self.call(calls.info())

    def live(self) -> bool:
        """Whether the service lives; asked once, without retries."""
        return self._asked("live")

    def ready(self) -> bool:
        """Whether the service is ready; asked once, without retries."""
        return self._asked("ready")

    def call(self, call: Call[Read]) -> Read:
        """Make one call of ``sidera_client.calls``."""
        return self._call(call, self._retry)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, which: str) -> bool:
        try:
            self._call(calls.health(which), Retry(attempts=1))
        except (UnavailableError, ConnectionFailedError):
            return False
        return True

    def _call(self, call: Call[Read], retry: Retry) -> Read:
        steps = steps_of(retry, self._timeout)
        outcome: httpx.Response | ClientError | None = None
        try:
            while True:
                step = steps.send(outcome)
                outcome = None
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    outcome = self._send(call, step.seconds)
        except StopIteration as stop:
            response: httpx.Response = stop.value
            return call.read(response)

    def _send(self, call: Call[Any], seconds: float) -> httpx.Response | ClientError:
        ends = time.monotonic() + seconds
        try:
            with self._http.stream(
                call.method, call.path, content=call.body, headers=call.headers(seconds), timeout=max(seconds, 0.001)
            ) as response:
                # httpx bounds each read; an answer that trickles is bounded here.
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > ends:
                        return timed_out(self._timeout)
            return outcome_of(response, bytes(content))
        except httpx.TimeoutException:
            return timed_out(self._timeout)
        except httpx.TransportError as error:
            return connection_failed(self._http.base_url, error)


def key_header(api_key: str | None) -> Mapping[str, str]:
    """How a key is sent."""
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


def outcome_of(response: httpx.Response, content: bytes) -> httpx.Response | ClientError:
    """A whole answer, or the error that it tells of."""
    whole = httpx.Response(response.status_code, headers=_plain(response), content=content, request=response.request)
    return calls.error_of(whole) or whole


def connection_failed(url: httpx.URL, error: httpx.TransportError) -> ConnectionFailedError:
    """The error of a connection that brought no answer."""
    return ConnectionFailedError(f"{url}: {error or type(error).__name__}; is the service there, and reachable?")


def _plain(response: httpx.Response) -> list[tuple[str, str]]:
    """The headers of an answer whose content is decoded already."""
    return [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_WIRE]


_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})
