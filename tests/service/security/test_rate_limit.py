"""A key sends what its rate allows, and is told when to come back."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import RateLimitedError
from service.metrics import Metrics
from service.security.rate_limit import RateLimiter
from service.security.scopes import Caller
from tests.service.conftest import Serve
from tests.service.fakes import settings

SHOP, OTHER = Caller("shop", frozenset()), Caller("other", frozenset())


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, metrics: Metrics | None = None, **rates: float) -> RateLimiter:
    return RateLimiter(settings(max_rows=4, max_tokenize_items=4, max_events=4, **rates), metrics or Metrics(), clock)


def test_a_burst_is_let_in_and_then_the_rate() -> None:
    clock = Clock()
    limits = limiter(clock, rate_requests_per_second=2, rate_burst_seconds=3)
    for _ in range(6):
        limits.request(SHOP)
    with pytest.raises(RateLimitedError) as raised:
        limits.request(SHOP)
    assert raised.value.retry_after == 1
    clock.now += 0.5
    limits.request(SHOP)
    with pytest.raises(RateLimitedError):
        limits.request(SHOP)


def test_a_silent_key_saves_no_more_than_its_burst() -> None:
    clock = Clock()
    limits = limiter(clock, rate_requests_per_second=1, rate_burst_seconds=2)
    limits.request(SHOP)
    clock.now += 1000
    limits.request(SHOP)
    limits.request(SHOP)
    with pytest.raises(RateLimitedError):
        limits.request(SHOP)


def test_rows_are_charged_together_or_not_at_all_and_retry_after_says_when_they_fit() -> None:
    clock = Clock()
    limits = limiter(clock, rate_rows_per_second=0.5, rate_burst_seconds=8)
    limits.rows(SHOP, 3)
    with pytest.raises(RateLimitedError) as raised:
        limits.rows(SHOP, 3)
    assert raised.value.retry_after == 4
    limits.rows(SHOP, 1)
    clock.now += 6
    limits.rows(SHOP, 3)


def test_keys_do_not_share_their_rate_and_refusals_are_counted_by_name() -> None:
    metrics = Metrics()
    limits = limiter(Clock(), metrics, rate_requests_per_second=1, rate_burst_seconds=1)
    limits.request(SHOP)
    limits.request(OTHER)
    with pytest.raises(RateLimitedError):
        limits.request(SHOP)
    assert 'sidera_rate_limited_total{key="shop",what="requests"} 1.0' in metrics.render().decode()


def test_without_a_rate_any_number_is_let_in() -> None:
    limits = limiter(Clock())
    for _ in range(100):
        limits.request(SHOP)
        limits.rows(SHOP, 1000)


def test_a_rate_that_never_lets_the_largest_request_in_is_refused() -> None:
    with pytest.raises(ValidationError, match="raise one of them or lower max_rows"):
        settings(rate_rows_per_second=1, rate_burst_seconds=5)


def test_over_http_a_key_over_its_rate_gets_429_with_retry_after(serve: Serve) -> None:
    client = serve(api_keys="first-key,second-key", rate_requests_per_second=0.01, rate_burst_seconds=100)
    first, second = ({"x-api-key": key} for key in ("first-key", "second-key"))
    assert client.get("/v1/info", headers=first).status_code == 200
    refused = client.get("/v1/info", headers=first)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 100
    assert refused.json()["error"]["retryable"] is True
    assert client.get("/v1/info", headers=second).status_code == 200
    assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/recommend", {"requests": [{"domain": "drama"}] * 3}),
        ("/tokenize", {"domain": "drama", "items": [{"item_id": str(n), "title": "T"} for n in range(3)]}),
    ],
)
def test_over_http_rows_and_items_are_charged(serve: Serve, tmp_path: Path, path: str, body: object) -> None:
    client = serve(max_rows=4, max_tokenize_items=4, max_events=4, rate_rows_per_second=0.04, rate_burst_seconds=100)
    assert client.post(path, json=body).status_code == 200
    refused = client.post(path, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert 45 <= int(refused.headers["retry-after"]) <= 50
