"""A real ``sidera serve`` with settings of our own, which can be watched, asked to end, or killed."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import SIDERA, ServiceProcessError, free_port, stop
from sidera_client.wire import Target

_READY_SECONDS = 120.0
_SWAP_SECONDS = 180.0
_CALL_SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """One running service.

    Attributes:
        port: of ``/recommend`` and its like.
        admin_port: of the admin routes.
        process: the service itself.
    """

    port: int
    admin_port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def target(self) -> Target:
        """Where it is loaded."""
        return Target.of(f"http://127.0.0.1:{self.port}")

    def resident_bytes(self) -> int:
        """Memory that is the process's own: what Linux calls Private_Dirty.

        Clean pages of the bundle's files are left out: they are the page cache's, which drops them when it likes.
        """
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, method: str, path: str, body: object = None, *, admin: bool = False) -> tuple[int, Any]:
        """One request of JSON on a connection of its own.

        Returns:
            The status, and the answer's JSON.

        Raises:
            OSError: no answer came.
        """
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.admin_port if admin else self.port, timeout=_CALL_SECONDS
        )
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {} if data is None else {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        return response.status, json.loads(answer) if answer.startswith((b"{", b"[")) else answer.decode()

    def must(self, method: str, path: str, body: object = None, *, admin: bool = False) -> Any:
        """The answer's JSON of a request that has to succeed.

        Raises:
            ServiceProcessError: it does not.
        """
        status, answer = self.ask(method, path, body, admin=admin)
        if not 200 <= status < 300:
            raise ServiceProcessError(f"{method} {path} was answered with {status}: {str(answer)[:500]}")
        return answer

    def swap(self, path: str, body: object = None) -> str:
        """``activate`` or ``rollback``, once no other swap runs; returns the version that serves when it is done.

        Raises:
            ServiceProcessError: it is refused, fails, or takes too long.
        """
        self._bundles_at_rest()  # the first bundle answers a moment before its own swap has ended
        wanted = self.must("POST", path, body, admin=True)["version"]
        bundles = self._bundles_at_rest()
        serving = bundles["serving"]
        if wanted not in (serving["name"], serving["bundle_version"]):
            raise ServiceProcessError(f"{path} to {wanted!r} failed: {json.dumps(bundles)[:1000]}")
        return str(serving["bundle_version"])

    def _bundles_at_rest(self) -> Any:
        """What ``GET /admin/bundles`` says once no swap runs."""
        ends = time.monotonic() + _SWAP_SECONDS
        while time.monotonic() < ends:
            bundles = self.must("GET", "/admin/bundles", admin=True)
            if bundles["swap"] is None:
                return bundles
            time.sleep(0.05)
        raise ServiceProcessError(f"a swap did not end within {_SWAP_SECONDS:g} s: {json.dumps(bundles)[:1000]}")

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-2000:]


@contextmanager
def serving(settings: Mapping[str, object], log: Path | None = None) -> Iterator[Served]:
    """Serve with these settings (names without ``SIDERA_``); yields once it is ready, and ends the process.

    Raises:
        ServiceProcessError: it ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory() as name:
        served = start(settings, log or Path(name) / "log")
        try:
            wait_until_ready(served)
            yield served
        finally:
            stop(served.process, patience=30.0)


def start(settings: Mapping[str, object], log: Path) -> Served:
    """Start a service on free ports; it is not ready yet."""
    port, admin_port = free_port(), free_port()
    given = {"port": port, "admin_port": admin_port, "log_level": "warning"} | dict(settings)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDERA_")}
    environment = kept | {f"SIDERA_{name.upper()}": str(value) for name, value in given.items()}
    # A few threads of its own wait for work; none of them may spin on the cores that are measured.
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("ab") as written:
        process = subprocess.Popen(  # noqa: S603 (our own words, no shell)
            [*SIDERA, "serve"], stdout=written, stderr=written, stdin=subprocess.DEVNULL, env=environment
        )
    return Served(port, admin_port, process, log)


def wait_until_ready(served: Served) -> None:
    """Wait until ``/health/ready`` says yes.

    Raises:
        ServiceProcessError: the process ended, or it takes too long.
    """
    ends = time.monotonic() + _READY_SECONDS
    while served.process.poll() is None and time.monotonic() < ends:
        try:
            if served.ask("GET", "/health/ready")[0] == 200:
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.05)
    ended = "ended" if served.process.poll() is not None else f"was not ready within {_READY_SECONDS:g} s"
    stop(served.process)
    raise ServiceProcessError(f"sidera serve {ended}; it said:\n{served.said()}")
