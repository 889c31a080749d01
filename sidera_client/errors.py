"""The error tree of the client.

ClientError
├── ApiError                  the service answered with an error         status
│   ├── InvalidRequestError   what was sent does not fit                 400, 405, 413, 422
│   ├── NotAllowedError       no key, a wrong one, or one without scope  401, 403
│   ├── NotFoundError         no such domain, item or route              404
│   ├── ConflictError         what was asked for contradicts the catalog 409
│   ├── BusyError             the queue is full, or the key's rate spent 429
│   ├── UnavailableError      not ready                                  503
│   ├── DeadlineError         the body or the answer was not there in time 408, 504
│   └── ServerFailedError     a defect of the service                    any other
├── ConnectionFailedError     no answer came: refused, reset, cut off
├── TimedOutError             the call's own time passed
└── UnexpectedAnswerError     what answered is not this service, or another version of it

``retryable`` says whether the same call may succeed later; the client has done its retries when an error is raised.
"""


class ClientError(Exception):
    """Root of all errors that the client raises on purpose."""

    retryable = False
    retry_after: float | None = None


class ApiError(ClientError):
    """The service answered with an error.

    Attributes:
        code: stable and machine-readable, such as ``unknown_domain``.
        message: one sentence for the person who must act.
        field: path of the field that offends, such as ``history.3.item_id``; None for the whole.
        retryable: whether the same request may succeed later.
        status: of HTTP; None for a row of a batch.
        retry_after: seconds to wait, where the service said so.
        request_id: what the service's log calls this request.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retryable: bool,
        field: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.message = message
        self.code = code
        self.retryable = retryable
        self.field = field
        self.status = status
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidRequestError(ApiError):
    """What was sent does not fit."""


class NotAllowedError(ApiError):
    """No key, a wrong one, or one without the scope."""


class NotFoundError(ApiError):
    """No such domain, item or route."""


class ConflictError(ApiError):
    """What was asked for contradicts the catalog."""


class BusyError(ApiError):
    """The queue is full, or the key's rate is spent."""


class UnavailableError(ApiError):
    """The service is not ready."""


class DeadlineError(ApiError):
    """The body or the answer was not there in time."""


class ServerFailedError(ApiError):
    """A defect of the service; its log has the details under the request id."""


class ConnectionFailedError(ClientError):
    """No answer came."""

    retryable = True


class TimedOutError(ClientError):
    """The call's own time passed."""


class UnexpectedAnswerError(ClientError):
    """What answered is not this service, or another version of it."""


_OF_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    405: InvalidRequestError,
    408: DeadlineError,
    409: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: BusyError,
    503: UnavailableError,
    504: DeadlineError,
}


def kind_of_status(status: int) -> type[ApiError]:
    """The class of an answer's error."""
    return _OF_STATUS.get(status, ServerFailedError)
