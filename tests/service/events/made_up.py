"""Events for tests: of the dramas and comedies of the stand-in bundle."""

from typing import Any

from service.events.rows import Event


def event(
    event_id: str, user_id: str, item_id: str, seconds: float, kind: str = "view", domain: str = "drama"
) -> Event:
    """One event; ``seconds`` since 1970."""
    return Event(event_id, user_id, domain, item_id, kind, round(seconds * 1_000_000))


def body(event_id: str, user_id: str, item_id: str, seconds: float | str, **changes: Any) -> dict[str, Any]:
    """The same as a row of ``POST /events``."""
    return {
        "event_id": event_id,
        "user_id": user_id,
        "domain": "drama",
        "item_id": item_id,
        "timestamp": seconds,
    } | changes
