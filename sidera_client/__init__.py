"""A typed client of the service, and the program that loads one: neither needs PyTorch, ``sidera`` or ``service``.

    from sidera_client import Client

    with Client("http://127.0.0.1:8000", api_key="...") as sidera:
        for item in sidera.recommend("films", ["item-1", "item-2"], num_results=5).items:
            print(item.item_id, item.score)

``AsyncClient`` has the same methods as coroutines.
"""

from sidera_client.asynchronous import AsyncClient
from sidera_client.errors import (
    ApiError,
    BusyError,
    ClientError,
    ConflictError,
    ConnectionFailedError,
    DeadlineError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    ServerFailedError,
    TimedOutError,
    UnavailableError,
    UnexpectedAnswerError,
)
from sidera_client.retries import Retry
from sidera_client.synchronous import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "BusyError",
    "Client",
    "ClientError",
    "ConflictError",
    "ConnectionFailedError",
    "DeadlineError",
    "InvalidRequestError",
    "NotAllowedError",
    "NotFoundError",
    "Retry",
    "ServerFailedError",
    "TimedOutError",
    "UnavailableError",
    "UnexpectedAnswerError",
]
