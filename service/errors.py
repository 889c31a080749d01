"""The error tree of package ``service``, and the one JSON shape in which errors leave.

ServiceError
├── RequestError                 code                 status  retryable
│   ├── InvalidJsonError         invalid_json         400
│   ├── UnauthorizedError        unauthorized         401
│   ├── ForbiddenError           forbidden            403
│   ├── NotFoundError            not_found            404
│   │   ├── DomainNotFoundError  unknown_domain       404
│   │   ├── ItemNotFoundError    unknown_item         404
│   │   └── VersionNotFoundError unknown_version      404
│   ├── MethodNotAllowedError    method_not_allowed   405
│   ├── BodyTimeoutError         body_timeout         408     yes
│   ├── ConflictError            conflict             409     yes
│   │   ├── DomainLimitError     domain_limit         409
│   │   ├── NoFreeSidError       domain_full          409
│   │   ├── DuplicateRowError    duplicate_item       409
│   │   ├── SwapInProgressError  swap_in_progress     409     yes
│   │   └── BundleRefusedError   bundle_refused       409
│   ├── BodyTooLargeError        body_too_large       413
│   ├── InvalidRequestError      invalid_request      422
│   ├── QueueFullError           queue_full           429     yes
│   ├── RateLimitedError         rate_limited         429     yes
│   ├── ClientGoneError          client_gone          499     (nobody reads it)
│   ├── InternalError            internal             500
│   ├── NotReadyError            not_ready            503     yes
│   ├── OutOfMemoryError         out_of_memory        503     yes
│   ├── DatabaseDownError        database_unavailable 503     yes
│   └── DeadlineError            deadline_exceeded    504     yes
├── StartError                   the service cannot start
└── StoreError                   the database of registered items cannot be opened or read
    ├── StaleCatalogError        another process changed the catalog in between; read it again and retry
    └── StoreUnavailableError    it does not answer now; what it held is served on

Every message is one sentence for the person who must act: the client for a RequestError, the operator for the others.
None that leaves holds the text of another exception or a stack trace.
"""

from typing import ClassVar


class ServiceError(Exception):
    """Root of all errors that ``service`` raises on purpose."""


class RequestError(ServiceError):
    """An error that a client is told about. ``field`` is the path of what offends, like ``history.3.item_id``."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after


class InvalidJsonError(RequestError):
    """The body is not JSON."""

    status = 400
    code = "invalid_json"


class UnauthorizedError(RequestError):
    """No API key, or one that is not known."""

    status = 401
    code = "unauthorized"


class ForbiddenError(RequestError):
    """What was asked for is switched off here, or the key has not the scope for it."""

    status = 403
    code = "forbidden"


class NotFoundError(RequestError):
    """No such route."""

    status = 404
    code = "not_found"


class DomainNotFoundError(NotFoundError):
    """The domain asked for is not in the catalog."""

    code = "unknown_domain"


class ItemNotFoundError(NotFoundError):
    """The item asked for is not in the catalog."""

    code = "unknown_item"


class VersionNotFoundError(NotFoundError):
    """The bundle store holds no such version."""

    code = "unknown_version"


class MethodNotAllowedError(RequestError):
    """The route exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class BodyTimeoutError(RequestError):
    """The body came too slowly."""

    status = 408
    code = "body_timeout"
    retryable = True


class ConflictError(RequestError):
    """What was asked for contradicts the catalog, or other processes kept changing it meanwhile."""

    status = 409
    code = "conflict"
    retryable = True


class DomainLimitError(ConflictError):
    """The catalog holds as many domains as the settings allow."""

    code = "domain_limit"
    retryable = False


class NoFreeSidError(ConflictError):
    """A domain holds as many items as there are SIDs."""

    code = "domain_full"
    retryable = False


class DuplicateRowError(ConflictError):
    """A request names an item twice."""

    code = "duplicate_item"
    retryable = False


class SwapInProgressError(ConflictError):
    """Another bundle is being swapped in."""

    code = "swap_in_progress"


class BundleRefusedError(ConflictError):
    """A version that cannot be loaded, or a service that has no bundle store."""

    code = "bundle_refused"
    retryable = False


class BodyTooLargeError(RequestError):
    """More bytes than the settings allow."""

    status = 413
    code = "body_too_large"


class InvalidRequestError(RequestError):
    """JSON that does not fit the schema or a limit."""

    status = 422
    code = "invalid_request"


class QueueFullError(RequestError):
    """Too many requests wait."""

    status = 429
    code = "queue_full"
    retryable = True


class RateLimitedError(RequestError):
    """The key has sent more than its rate."""

    status = 429
    code = "rate_limited"
    retryable = True


class ClientGoneError(RequestError):
    """The client closed the connection before its answer; the status is for logs and metrics only."""

    status = 499
    code = "client_gone"


class InternalError(RequestError):
    """A defect of ours; the log has the details under the request id."""

    def __init__(self) -> None:
        super().__init__("the service failed on this request; its log has the details under the x-request-id")


class NotReadyError(RequestError):
    """The bundle is not loaded (yet), or the engine has stopped."""

    status = 503
    code = "not_ready"
    retryable = True


class OutOfMemoryError(RequestError):
    """There is not enough memory for this request now."""

    status = 503
    code = "out_of_memory"
    retryable = True


class DatabaseDownError(RequestError):
    """The database of registered items does not answer, so nothing can be changed; reading goes on."""

    status = 503
    code = "database_unavailable"
    retryable = True


class DeadlineError(RequestError):
    """The answer was not there in time."""

    status = 504
    code = "deadline_exceeded"
    retryable = True


class StartError(ServiceError):
    """The service cannot start: one sentence for the operator."""


class StoreError(ServiceError):
    """The database of registered items cannot be opened or read."""


class StaleCatalogError(StoreError):
    """Another process changed the catalog in between."""


class StoreUnavailableError(StoreError):
    """The database does not answer now; what was asked for may have been done or not."""
