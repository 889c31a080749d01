"""One request, one generation."""

import asyncio
import threading

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.bundles.holding import HOLD, Hold, Holders, HoldMiddleware

SCOPE: Scope = {"type": "http", "headers": []}


async def nothing() -> Message:
    return {"type": "http.disconnect"}


class Held:
    """Something with holders, as a generation has them."""

    def __init__(self) -> None:
        self.holders = Holders()


def run(held: Held, fails: bool = False, stopping: bool = False) -> tuple[list[int], list[Message]]:
    """A request that takes a generation; how often it was held before, inside and at the last byte."""
    counts, sent = [held.holders.count], list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        hold = HOLD.get()
        assert hold is not None
        hold.take(held)  # type: ignore[arg-type]
        counts.append(held.holders.count)
        if fails:
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        counts.append(held.holders.count)
        sent.append(message)

    asyncio.run(HoldMiddleware(app, lambda: stopping)(SCOPE, nothing, send))
    return counts, sent


def test_a_generation_is_held_from_the_first_look_to_the_last_byte() -> None:
    held = Held()
    assert run(held)[0] == [0, 1, 1, 1]
    assert held.holders.count == 0


def test_a_request_that_fails_lets_go() -> None:
    held = Held()
    with pytest.raises(RuntimeError):
        run(held, fails=True)
    assert held.holders.count == 0


def test_a_request_that_looks_at_nothing_holds_nothing() -> None:
    hold = Hold()
    hold.release()
    assert hold.generation is None


@pytest.mark.parametrize(("stopping", "headers"), [(False, []), (True, [(b"connection", b"close")])])
def test_answers_ask_for_a_new_connection_once_the_service_is_to_stop(
    stopping: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    assert run(Held(), stopping=stopping)[1][0]["headers"] == headers


def test_waiting_ends_with_the_last_holder_or_with_the_time() -> None:
    holders = Holders()
    assert holders.wait_until_none(0)
    holders.acquire()
    assert not holders.wait_until_none(0.01)
    threading.Timer(0.02, holders.release).start()
    assert holders.wait_until_none(20)
