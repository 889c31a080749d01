"""Runs one service on its ports, in one event loop, from its start to the end of what it was asked.

SIGTERM (or SIGINT): not ready at once, but accepting for a while longer, until no one sends new requests; then no new
connection, every running request is finished, and the process ends with 0. What is not finished within the grace period
is cut off, and the process ends with 1. A second signal skips the wait.
"""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import typer
import uvicorn
from fastapi import FastAPI

from service.app import create_admin_app, create_app
from service.context import ServiceContext
from service.errors import StartError
from service.heap import give_back
from service.logs import server_log_config
from service.refusing_protocol import refusing_protocol
from service.security.slow_headers import impatient_protocol
from service.settings import Settings

_SWITCH_SECONDS = 0.0005
"""So long one thread keeps the others from running Python: a batch waits for it between its many short steps."""

_LAST_SECONDS = 2.0
"""Of the grace period, for what comes after the last answer: engines, the database."""


def listen(host: str, port: int, flags: str) -> socket.socket:
    """A listening socket.

    Raises:
        StartError: the address cannot be had; ``flags`` say what to choose another one with.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with {flags}") from error
    # Connections inherit it: an answer leaves in two writes, and the second would wait 40 ms for the client's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def settle() -> None:
    """Collect all garbage, that of old bundles too, and look at what is left never again: it stays for long."""
    gc.unfreeze()
    gc.collect()
    give_back()
    gc.freeze()


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """The public port, and the admin port where there is one."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        admin_listener: socket.socket | None = None,
        create: Callable[..., FastAPI] = create_app,
    ) -> None:
        self.failure: str | None = None
        self._settings = settings
        self._listener = listener
        self._admin_listener = admin_listener
        app = create(settings, on_outcome=self._on_outcome, settle=settle)
        self._context: ServiceContext = app.state.context
        patience = settings.header_timeout_ms / 1000, settings.max_header_bytes
        refusing = refusing_protocol(*patience, app.state.instant_refusal)
        self._public = _Server(self._config(app, refusing, "on"))
        self._admin = None
        if admin_listener is not None:
            self._admin = _Server(self._config(create_admin_app(app), impatient_protocol(*patience), "off"))
        self._signals = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until a signal, or :meth:`stop`, or a start that fails, which ``failure`` then tells."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        with asyncio.Runner(loop_factory=self._public.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        """Finish what runs, and end; any thread may call."""
        self._context.runtime.prepare_to_stop()
        self._public.should_exit = True

    async def _serve(self) -> None:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal)
        admin = None
        if self._admin is not None and self._admin_listener is not None:
            admin = asyncio.create_task(self._admin.serve(sockets=[self._admin_listener]))
        await self._public.serve(sockets=[self._listener])
        if self._admin is not None and admin is not None:  # probes may be there, so it ends last
            self._admin.should_exit = True
            await admin
        self._ended.set()

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._context.log.info("stopping", delay=self._settings.shutdown_delay_seconds)
            self._context.runtime.prepare_to_stop()
            threading.Thread(target=self._cut_off, name="grace", daemon=True).start()
            asyncio.get_running_loop().call_later(self._settings.shutdown_delay_seconds, self.stop)
        else:
            self.stop()
            self._public.force_exit = self._signals > 2

    def _cut_off(self) -> None:
        """End the process when the grace period is over, whatever hangs."""
        if not self._ended.wait(self._settings.grace_seconds):
            self._context.log.critical("the grace period is over; what still ran is lost")
            os._exit(1)

    def _on_outcome(self, failure: str | None) -> None:
        if failure is not None:
            self.failure = failure
            self._public.should_exit = True
            return
        settle()
        typer.echo(self._greeting())

    def _greeting(self) -> str:
        address = _address(self._listener)
        domain = next(iter(self._context.runtime.running().catalog.catalog.domains), "DOMAIN")
        body = json.dumps({"domain": domain, "num_results": 3})
        admin = "" if self._admin_listener is None else f" (admin: {_address(self._admin_listener)})"
        page = f" Open {address}/playground/ in a browser." if self._settings.serves_playground else ""
        return (
            f"Sidera serves at {address}, described at {address}/docs{admin}.{page} Try:\n"
            f"  curl -s {address}/recommend -H 'content-type: application/json' -d '{body}'"
        )

    def _config(self, app: FastAPI, protocol: type[asyncio.Protocol], lifespan: Literal["on", "off"]) -> uvicorn.Config:
        settings = self._settings
        left = settings.grace_seconds - settings.shutdown_delay_seconds - _LAST_SECONDS
        return uvicorn.Config(
            app,
            log_config=server_log_config(settings.log_level),
            access_log=False,
            server_header=False,
            loop="asyncio",
            http=protocol,
            ws="none",
            proxy_headers=False,  # nothing here asks who a client is by its address
            lifespan=lifespan,
            timeout_graceful_shutdown=max(1, int(left)),
        )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}"  # noqa: S104
