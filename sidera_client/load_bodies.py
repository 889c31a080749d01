"""What a load asks: requests from a file, or histories made of items that the service itself recommends.

A file holds bodies of ``POST /recommend``: JSON lines, or a parquet table whose columns are its fields. A history is
a list of item ids or of ``{"item_id", "domain"}``.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidera_client.errors import ClientError
from sidera_client.models import RecommendRequest
from sidera_client.synchronous import Client

_ROUNDS = 3
"""How often the items that came back are asked with again, for more of them."""


class BodiesError(ClientError):
    """A file of requests, or what a service knows, does not do for a load."""


def read_bodies(path: Path, num_results: int | None = None) -> list[dict[str, Any]]:
    """Read the requests of a file.

    Args:
        path: ends in ``.parquet``, ``.jsonl`` or ``.json``.
        num_results: asked for by every request; what the file says if None.

    Raises:
        BodiesError: it cannot be read, or holds no requests.
    """
    if path.suffix not in (".parquet", ".jsonl", ".json"):
        raise BodiesError(f"{path}: give a file that ends in .parquet, .jsonl or .json")
    try:
        rows = _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
    except OSError as error:
        raise BodiesError(f"{path}: it cannot be read: {error.strerror or error}") from error
    if not rows:
        raise BodiesError(f"{path}: it holds no request")
    return [_body(path, number, row, num_results) for number, row in enumerate(rows, start=1)]


def drawn_bodies(
    client: Client, length: int, count: int, num_results: int, domains: Sequence[str] = (), seed: int = 0
) -> list[dict[str, Any]]:
    """Histories of ``length`` items drawn from what the service recommends in each domain.

    Args:
        domains: to ask for; all that the service has if empty.

    Raises:
        BodiesError: the service does not have a domain, or recommends nothing.
        ClientError: it cannot be asked.
    """
    info = client.info()
    known = {domain.name: domain.items for domain in info.domains}
    unknown = sorted(set(domains) - set(known))
    if unknown:
        raise BodiesError(f"the service has no domain {unknown[0]!r}; it has {', '.join(sorted(known))}")
    draw = random.Random(seed)
    most = min(100, info.limits.get("max_num_results", 100))
    pools = {domain: _pool(client, domain, most, draw) for domain in domains or sorted(known) if known[domain]}
    pools = {domain: pool for domain, pool in pools.items() if pool}
    if not pools:
        raise BodiesError(
            "the service recommends nothing, so there are no items to make histories of; give --histories"
        )
    bodies = []
    for number in range(count):
        domain, pool = sorted(pools.items())[number % len(pools)]
        # Items come back more than once where there are fewer of them than a history holds.
        history = draw.sample(pool, length) if len(pool) >= length else draw.choices(pool, k=length)
        bodies.append(RecommendRequest(domain, history, num_results).as_json())
    return bodies


def _pool(client: Client, domain: str, most: int, draw: random.Random) -> list[str]:
    """Some items of a domain: the first that come to mind, and what comes after some of these."""
    found: dict[str, None] = {}
    history: list[str] = []
    for _ in range(_ROUNDS):
        found.update((item.item_id, None) for item in client.recommend(domain, history, num_results=most).items)
        history = draw.sample(sorted(found), min(5, len(found)))
    return list(found)


def _json_lines(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json" and text.lstrip().startswith("["):
        lines: list[Any] = _parsed(path, 1, text)
        return lines
    return [_parsed(path, number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BodiesError(f"{path}:{line}: this is no JSON ({error})") from error


def _parquet(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Any] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise BodiesError(f"{path}: this is no parquet file ({error})") from error
    return rows


def _body(path: Path, number: int, row: Any, num_results: int | None) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("domain"), str):
        raise BodiesError(f"{path}, request {number}: it names no domain; each holds domain and history")
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BodiesError(f"{path}, request {number}: its history is no list; give item ids, oldest first")
    told = {name: value for name, value in row.items() if value is not None}
    told["history"] = [_entry(entry) for entry in history]
    return told if num_results is None else told | {"num_results": num_results}


def _entry(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return {name: value for name, value in entry.items() if value is not None}
    return {"item_id": entry}
