"""Waits for an engine's answers on the event loop, as long as the client and the deadline do."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated, Any, TypeVar

from fastapi import Header
from pydantic import Field, WithJsonSchema
from starlette.types import Receive

from service.errors import ClientGoneError, DeadlineError

Answer = TypeVar("Answer")


DeadlineHeader = Annotated[
    Annotated[int, Field(ge=1)] | None,
    WithJsonSchema({"type": "integer", "minimum": 1}),
    Header(
        alias="X-Sidera-Deadline-Ms",
        description="milliseconds until the answer is of no use any more; the service's own deadline bounds it",
    ),
]
"""What a client may say of its own deadline."""


def deadline_of(asked_ms: int | None, most_ms: int) -> float:
    """The ``time.monotonic()`` after which nobody wants an answer to a request that has just come."""
    return time.monotonic() + (most_ms if asked_ms is None else min(asked_ms, most_ms)) / 1000


async def collect(
    futures: Sequence["Future[Answer]"], deadline: float, receive: Receive
) -> list[Answer | BaseException]:
    """Wait for every future and return its answer or its error, in order.

    What is not there at the deadline becomes a DeadlineError, and is cancelled.

    Args:
        futures: what ``Engine.submit`` returned.
        deadline: in ``time.monotonic()`` seconds.
        receive: the ASGI channel of the request, its body already read.

    Raises:
        ClientGoneError: the client closed the connection; everything still waiting was cancelled.
    """
    if not futures:
        return []
    answers: list[asyncio.Future[Answer]] = [asyncio.wrap_future(future) for future in futures]
    gone = asyncio.ensure_future(_disconnect(receive))
    everything = asyncio.gather(*answers, return_exceptions=True)
    either: set[asyncio.Future[Any]] = {everything, gone}
    try:
        timeout = max(0.0, deadline - time.monotonic())
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if everything.done():
            return everything.result()
        if gone.done():
            raise ClientGoneError("the client closed the connection before its answer was there")
        late = DeadlineError("the answer was not there before the deadline; retry later or ask for less")
        return [late if not answer.done() else answer.exception() or answer.result() for answer in answers]
    finally:
        gone.cancel()
        for future, answer in zip(futures, answers, strict=True):
            future.cancel()  # at once; through ``answer`` alone it would wait for the event loop's next turn
            answer.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
