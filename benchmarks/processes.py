"""A real ``sidera serve`` on a free port of this machine, for as long as it is measured."""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIDERA = (sys.executable, "-c", "from sidera.cli import main; main()")
"""The command ``sidera`` of the environment that runs the benchmark."""

_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_CALL_SECONDS = 30.0


class ServiceProcessError(Exception):
    """The service that is measured did not start, or refused a request."""


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_CALL_SECONDS)

    def get(self, path: str) -> int:
        """The status of a page."""
        return self._answer("GET", path, None)[0]

    def post(self, path: str, body: bytes) -> bytes:
        """The bytes of a JSON answer to JSON bytes.

        Raises:
            ServiceProcessError: the answer is no success.
        """
        status, answer = self._answer("POST", path, body)
        if status != 200:
            raise ServiceProcessError(
                f"POST {path} was answered with {status}: {answer.decode(errors='replace')[:500]}"
            )
        return answer

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _answer(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        self._connection.request(method, path, body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()


@contextmanager
def served(bundle: Path) -> Iterator[int]:
    """Serve a bundle; yields the port once the service is ready, and ends the process.

    Raises:
        ServiceProcessError: it ended, or was not ready in time; what it said is in the message.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        command = [*SIDERA, "serve", str(bundle), "--port", str(port), "--database", str(folder / "items.db")]
        log = folder / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(  # noqa: S603 (our own words and the user's path, no shell)
                command, stdout=written, stderr=written, stdin=subprocess.DEVNULL
            )
            try:
                _wait_until_ready(process, port, log)
                yield port
            finally:
                stop(process)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def stop(process: "subprocess.Popen[Any]", patience: float = _STOP_SECONDS) -> None:
    """End a process: asked first, killed if it takes longer than ``patience`` seconds."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[Any]", port: int, log: Path) -> None:
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < _READY_SECONDS:
        if _is_ready(port):
            return
        time.sleep(0.1)
    said = log.read_text(errors="replace")[-2000:]
    ended = "ended" if process.poll() is not None else f"was not ready within {_READY_SECONDS:g} s"
    raise ServiceProcessError(f"sidera serve {ended}; it said:\n{said}")


def _is_ready(port: int) -> bool:
    client = Client(port)
    try:
        return client.get("/health/ready") == 200
    except OSError:
        return False
    finally:
        client.close()


def body_of(domain: str, history: tuple[tuple[str, str], ...], num_results: int) -> bytes:
    """A body of ``POST /recommend``."""
    items = [{"domain": place, "item_id": item_id} for place, item_id in history]
    return json.dumps({"domain": domain, "history": items, "num_results": num_results}).encode()
