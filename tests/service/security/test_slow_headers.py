"""A connection whose headers do not come is ended; one that is answered, or slow to be answered, is not."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.security.slow_headers import impatient_protocol

REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


@contextlib.contextmanager
def listening(timeout: float, answer_seconds: float = 0.0, max_header_bytes: int = 16_384) -> Iterator[socket.socket]:
    """A connection to a server that answers every request."""
    release = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        import asyncio

        await asyncio.sleep(answer_seconds)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http=impatient_protocol(timeout, max_header_bytes), log_config=None, lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with socket.create_connection(listener.getsockname()) as client:
                client.settimeout(20)
                yield client
        finally:
            release.set()
            server.should_exit = True
            thread.join(20)


def answer(client: socket.socket, most: int = 1000) -> bytes:
    """All of an answer; it may come in parts of ``most`` bytes."""
    read = b""
    while not read.endswith(b"ok"):
        part = client.recv(most)
        assert part, read
        read += part
    return read


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: te"])
def test_a_connection_whose_first_headers_do_not_come_is_ended(begun: bytes) -> None:
    with listening(0.2) as client:
        client.sendall(begun)
        assert client.recv(1000) == b""


def test_headers_that_come_a_byte_at_a_time_do_not_put_the_end_off() -> None:
    with listening(0.2) as client, contextlib.suppress(ConnectionError):
        for byte in REQUEST[:-4]:
            client.sendall(bytes([byte]))
            time.sleep(0.05)
        assert client.recv(1000) == b"", "ended before its headers were complete"


def test_a_second_request_whose_headers_do_not_come_ends_a_connection_that_was_answered() -> None:
    with listening(1.0) as client:
        client.sendall(REQUEST)
        assert answer(client).endswith(b"ok")
        client.sendall(b"GET / HT")
        assert client.recv(1000) == b""


def test_an_answer_may_take_longer_than_headers_and_a_silent_connection_stays_open_after_it() -> None:
    with listening(1.0, answer_seconds=1.2) as client:
        for _ in range(2):
            client.sendall(REQUEST)
            assert answer(client).endswith(b"ok")
            time.sleep(1.2)


def test_headers_over_their_limit_are_refused() -> None:
    with listening(20.0, max_header_bytes=1024) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nx-long: " + b"x" * 5000)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_headers_over_their_limit_are_refused_also_if_they_come_at_once_or_line_by_line() -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"x" * 100) for number in range(20))
    with listening(20.0, max_header_bytes=1024) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n" + lines + b"\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    with listening(20.0, max_header_bytes=1024) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nx-long: ")
        for _ in range(20):
            client.sendall(b"x" * 100)
            time.sleep(0.01)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_lines_behind_a_body_are_limited_as_headers_are() -> None:
    with listening(20.0, max_header_bytes=1024) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-long: ")
        assert answer(client).endswith(b"ok")
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                client.sendall(b"x" * 100)
                time.sleep(0.01)
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_body_may_be_larger_than_headers_and_come_in_any_parts() -> None:
    with listening(20.0, max_header_bytes=200) as client:
        for part in (b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3000\r\n\r\n", *30 * [b"x" * 100], REQUEST):
            client.sendall(part)
            time.sleep(0.005)
        for _ in range(2):
            assert answer(client, 1).endswith(b"ok")


def test_a_body_that_does_not_come_although_its_request_is_answered_ends_the_connection() -> None:
    with listening(0.5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n")
        assert answer(client).endswith(b"ok")
        client.sendall(b"x")
        assert client.recv(1000) == b""


def test_many_requests_at_once_may_be_larger_than_the_headers_of_one() -> None:
    with listening(20.0, max_header_bytes=200) as client:
        client.sendall(10 * REQUEST + REQUEST[:-4])
        for _ in range(10):
            assert answer(client, 1).endswith(b"ok")
        client.sendall(REQUEST[-4:])
        assert answer(client, 1).endswith(b"ok")


def test_a_connection_that_sends_empty_lines_and_no_request_is_ended() -> None:
    with listening(0.5) as client, contextlib.suppress(ConnectionError):
        client.sendall(REQUEST)
        assert answer(client).endswith(b"ok")
        for _ in range(4):
            client.sendall(b"\r\n")
            time.sleep(0.1)
        assert client.recv(1000) == b""
