"""One HTTP/1.1 connection that stays open, as lean as can be: a load program must not measure itself.

It speaks what the service speaks: answers with a content-length, one after another. An HTTP library costs a client
several times the processor time of this, which on the machine under test is time that the service does not have.
"""

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from sidera_client.errors import ConnectionFailedError, UnexpectedAnswerError

_HEAD_END = b"\r\n\r\n"
_MOST_HEAD_BYTES = 65_536


@dataclass(frozen=True)
class Target:
    """Where a service listens, and what every request to it says."""

    host: str
    port: int
    secure: bool
    prefix: str
    headers: bytes

    @classmethod
    def of(cls, url: str, api_key: str | None = None) -> "Target":
        """Read ``http://host:port/prefix``.

        Raises:
            ValueError: it is no such address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a service; give one such as http://127.0.0.1:8000")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("an API key holds printable ASCII characters only")
        key = "" if api_key is None else f"authorization: Bearer {api_key}\r\n"
        headers = f"host: {parts.netloc.rpartition('@')[2]}\r\n{key}".encode()
        secure = parts.scheme == "https"
        return cls(parts.hostname, _port(parts, secure), secure, parts.path.rstrip("/"), headers)

    def request(self, method: str, path: str, body: bytes, more: bytes = b"") -> bytes:
        """The bytes of one request; ``more`` are whole header lines."""
        line = f"{method} {self.prefix}{path} HTTP/1.1\r\n".encode()
        about = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        return b"".join((line, self.headers, about, more, b"\r\n", body))


@dataclass(frozen=True)
class Reply:
    """One answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    stays_open: bool


class Connection(asyncio.Protocol):
    """Asks once at a time. ``ask`` raises ``ConnectionFailedError`` when no whole answer comes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiting: asyncio.Future[Reply] | None = None
        self.usable = False

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        """Connect.

        Raises:
            ConnectionFailedError: nobody listens there.
        """
        context = ssl.create_default_context() if target.secure else None
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(cls, target.host, target.port, ssl=context)
        except OSError as error:
            raise ConnectionFailedError(f"{target.host}:{target.port}: {error.strerror or error}") from error
        return connection

    async def ask(self, request: bytes) -> Reply:
        """Send the bytes of a request and return its answer."""
        if self._transport is None or not self.usable:
            raise ConnectionFailedError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            if not self._waiting.done() or self._waiting.cancelled():
                self.close()  # its answer may still come, and is no answer to the next request
            self._waiting = None

    def close(self) -> None:
        """Hang up."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.usable = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            reply = _whole_reply(self._received)
        except UnexpectedAnswerError as error:
            self._fail(error)
            return
        if reply is None:
            return
        if not reply.stays_open:
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionFailedError(f"the connection ended before the answer: {exc or 'closed by the service'}"))

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def _whole_reply(received: bytearray) -> Reply | None:
    """Take one answer off the front of what was received; None while it is not whole."""
    end = received.find(_HEAD_END)
    if end < 0:
        if len(received) > _MOST_HEAD_BYTES:
            raise UnexpectedAnswerError("what answers does not speak HTTP")
        return None
    lines = bytes(received[:end]).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length, status = headers.get("content-length", ""), lines[0].split(" ")[1:2]
    if not length.isdigit() or not status or not status[0].isdigit():
        raise UnexpectedAnswerError("the answer has no status or no content-length; is this the service?")
    whole = end + len(_HEAD_END) + int(length)
    if len(received) < whole:
        return None
    body = bytes(received[end + len(_HEAD_END) : whole])
    del received[:whole]
    return Reply(int(status[0]), headers, body, headers.get("connection", "").lower() != "close")


def _port(parts: SplitResult, secure: bool) -> int:
    return parts.port or (443 if secure else 80)
