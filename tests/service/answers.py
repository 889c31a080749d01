"""What every answer that refuses looks like."""

from typing import Any


def error_of(response: Any) -> dict[str, Any]:
    """What an answer says went wrong; it has the one shape of all errors."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) - {"field"} == {"code", "message", "retryable"}
    return error
