"""Good and bad clients together for a long time: every answer in its contract, nothing stuck, nothing leaked.

Beside ordinary clients some hang up in the middle, some send their request in pieces or not to its end, some send
what is no request at all. Each kind knows which answers it may get.
"""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, at_most, shown
from benchmarks.service_process import Served, serving
from benchmarks.service_scope import Scope
from benchmarks.service_subject import DOMAIN, Bundles, bodies
from sidera_client.answers import ErrorAnswer, Recommendation, RecommendBatchAnswer, Tokenized
from sidera_client.errors import ClientError
from sidera_client.wire import Connection, Reply, Target
from training.progress import track

_MOST_GROWTH = 1.05
_WARM_SHARE = 0.2
"""Of the time, before memory is first looked at: caches fill, and every kind of client has been there."""
_PATIENCE = 30.0
_BUSY = frozenset({429, 503, 504})

Client = Callable[["Crowd"], Awaitable[None]]


@dataclass
class Crowd:
    """What all clients share, and what they saw.

    Attributes:
        asked: bodies of ``/recommend``.
        wrong: answers out of their contract, by kind, with one of each kept in ``example``.
        stuck: requests that were not answered within 30 s.
    """

    target: Target
    asked: list[bytes]
    draw: random.Random
    answers: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    stuck: int = 0

    def body(self) -> bytes:
        """One of the bodies."""
        return self.draw.choice(self.asked)

    async def ask(self, who: str, request: bytes, allowed: frozenset[int], model: Any = None) -> None:
        """Send a request on a connection of its own, and judge its answer."""
        try:
            async with asyncio.timeout(_PATIENCE):
                connection = await Connection.open(self.target)
                try:
                    reply = await connection.ask(request)
                finally:
                    connection.close()
        except TimeoutError:
            self.stuck += 1
            return
        except ClientError as error:
            self._is_wrong(who, f"no answer: {error}")
            return
        self.judge(who, reply, allowed, model)

    def judge(self, who: str, reply: Reply, allowed: frozenset[int], model: Any = None) -> None:
        """Count an answer; a status that is not allowed or a body out of its schema is wrong."""
        self.answers[f"{who} {reply.status}"] += 1
        if reply.status not in allowed | _BUSY:
            self._is_wrong(who, f"{reply.status} {reply.body[:200]!r}")
            return
        expected = model if reply.status == 200 else ErrorAnswer
        if expected is None:
            return
        try:
            expected.model_validate_json(reply.body)
        except ValueError as error:
            self._is_wrong(who, f"{reply.status}: {error}")

    def _is_wrong(self, who: str, what: str) -> None:
        self.wrong[who] += 1
        self.example.setdefault(who, what)


def measure_mixed(bundles: Bundles, scope: Scope) -> dict[str, Figure]:
    """All kinds of clients for ``scope.mixed_seconds``."""
    settings = {
        "bundle": bundles.first,
        "database": scope.fresh_database(),
        "header_timeout_ms": 2000,
        "body_timeout_ms": 2000,
    }
    with serving(settings) as served:
        crowd = Crowd(served.target, bodies(scope.size, 500), random.Random(0))
        before, after = asyncio.run(_run(served, crowd, scope.mixed_seconds))
        left = _rows_that_wait(served)
    told = ", ".join(f"{who}: {what}" for who, what in sorted(crowd.example.items()))[:300]
    note = f"{crowd.answers.total():,} answers in {scope.mixed_seconds:.0f} s"
    return {
        "mixed_wrong_answers": at_most(crowd.wrong.total(), 0, "answers", f"{note}; {told or 'all in their contract'}"),
        "mixed_stuck_requests": at_most(crowd.stuck, 0, "requests", f"not answered within {_PATIENCE:.0f} s"),
        "mixed_rows_left_in_queue": at_most(left, 0, "rows", "after the last client left"),
        "mixed_memory_growth": at_most(
            after.memory / before.memory, _MOST_GROWTH, "ratio", f"{after.memory >> 20} MiB"
        ),
        "mixed_files_left_open": at_most(after.files - before.files, 4, "files", f"{after.files} at the end"),
        "mixed_threads_left": at_most(after.threads - before.threads, 0, "threads", f"{after.threads} at the end"),
        "mixed_answers": shown(crowd.answers.total(), "answers", json.dumps(dict(sorted(crowd.answers.items())))[:400]),
    }


@dataclass(frozen=True)
class Kept:
    """What a process holds."""

    memory: int
    files: int
    threads: int

    @classmethod
    def of(cls, served: Served) -> "Kept":
        folder = Path(f"/proc/{served.process.pid}")
        return cls(
            served.resident_bytes(), len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))
        )


async def _run(served: Served, crowd: Crowd, seconds: float) -> tuple[Kept, Kept]:
    warm = seconds * _WARM_SHARE
    with track("good and bad clients", 2) as advance:
        await _all_clients(crowd, warm)
        advance()
        await asyncio.sleep(3.0)
        before = Kept.of(served)
        await _all_clients(crowd, seconds - warm)
        await asyncio.sleep(3.0)
        advance()
    return before, Kept.of(served)


async def _all_clients(crowd: Crowd, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds

    async def again(client: Client) -> None:
        while loop.time() < ends:
            await client(crowd)
            await asyncio.sleep(0.02)

    kinds = [_ordinary] * 3 + [
        _batches,
        _registers,
        _hangs_up,
        _hangs_up,
        _slow,
        _never_ends,
        _malformed,
        _wrong_values,
    ]
    await asyncio.gather(*(again(client) for client in kinds))


async def _ordinary(crowd: Crowd) -> None:
    await crowd.ask(
        "ordinary", crowd.target.request("POST", "/recommend", crowd.body()), frozenset({200}), Recommendation
    )


async def _batches(crowd: Crowd) -> None:
    rows = [json.loads(crowd.body()) for _ in range(crowd.draw.randint(1, 8))]
    rows += [{"domain": "no such domain"}, {"domain": 7}]
    body = json.dumps({"requests": rows}).encode()
    await crowd.ask("batches", crowd.target.request("POST", "/recommend", body), frozenset({200}), RecommendBatchAnswer)


async def _registers(crowd: Crowd) -> None:
    item = {"item_id": f"mixed-{crowd.draw.randrange(50)}", "title": f"Mixed {crowd.draw.randrange(1000)}"}
    body = json.dumps({"domain": DOMAIN, "items": [item], "register": True}).encode()
    await crowd.ask("registers", crowd.target.request("POST", "/tokenize", body), frozenset({200, 409}), Tokenized)
    await asyncio.sleep(0.2)


async def _hangs_up(crowd: Crowd) -> None:
    """Sends some of a request, or all of it, and is gone."""
    request = crowd.target.request("POST", "/recommend", crowd.body())
    sent = request if crowd.draw.random() < 0.5 else request[: crowd.draw.randrange(len(request))]
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(crowd.target.host, crowd.target.port)
        writer.write(sent)
        await writer.drain()
        await asyncio.sleep(crowd.draw.random() * 0.05)
        writer.transport.abort()
    crowd.answers["hangs up"] += 1


async def _slow(crowd: Crowd) -> None:
    """Sends a whole request in pieces, within the time that it has."""
    await _in_pieces(crowd, "slow", crowd.target.request("POST", "/recommend", crowd.body()), frozenset({200}))


async def _never_ends(crowd: Crowd) -> None:
    """Declares more than it sends: it is told so, or its connection ends."""
    request = crowd.target.request("POST", "/recommend", crowd.body())[: -crowd.draw.randint(1, 20)]
    await _in_pieces(crowd, "never ends", request, frozenset({408}))


async def _in_pieces(crowd: Crowd, who: str, request: bytes, allowed: frozenset[int]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(crowd.target.host, crowd.target.port)
            for begin in range(0, len(request), 100):
                writer.write(request[begin : begin + 100])
                await writer.drain()
                await asyncio.sleep(0.03)
            line = await reader.readline()
            writer.transport.abort()
    except TimeoutError:
        crowd.stuck += 1
        return
    except OSError:
        line = b""
    status = int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
    crowd.answers[f"{who} {status or 'closed'}"] += 1
    if status and status not in allowed | _BUSY:
        crowd.wrong[who] += 1
        crowd.example.setdefault(who, line.decode(errors="replace"))


async def _malformed(crowd: Crowd) -> None:
    """What is no JSON, no such route, or no such method."""
    path, method, body, allowed = crowd.draw.choice(
        (
            ("/recommend", "POST", b"{" * 50, {400}),
            ("/recommend", "POST", bytes(range(256)), {400}),
            ("/recommend", "POST", b"[1, 2]", {422}),
            ("/recommend", "POST", b'{"domain": "' + b"x" * 3_000_000 + b'"}', {413}),
            ("/recommend", "GET", b"", {405}),
            ("/nowhere/../x", "POST", b"{}", {404}),
            ("/tokenize", "POST", b"null", {400, 422}),
        )
    )
    await crowd.ask("malformed", crowd.target.request(method, path, body), frozenset(allowed))


async def _wrong_values(crowd: Crowd) -> None:
    """JSON of the right shape with values that do not fit."""
    body = json.loads(crowd.body())
    name, value = crowd.draw.choice(
        (("num_results", 0), ("num_results", 1e9), ("beam_width", -1), ("history", "x"), ("domain", ""), ("other", 1))
    )
    request = crowd.target.request("POST", "/recommend", json.dumps(body | {name: value}).encode())
    await crowd.ask("wrong values", request, frozenset({422}))


def _rows_that_wait(served: Served) -> float:
    text = served.must("GET", "/metrics")
    lines = [line for line in str(text).splitlines() if line.startswith("sidera_queue_length{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
