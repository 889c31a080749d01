"""Opens the database of registered items: SQLite in one file, or PostgreSQL for several replicas.

The URL may hold a password: whatever is logged or raised names the database without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.catalog.tables import STATE
from service.errors import StoreError, StoreUnavailableError

WRITES = "sidera_writes"
"""The execution option of a connection whose transaction takes the write lock at once."""

_OLD_SCHEMA = 1
_FIRST_REVISION = "0001"
_MIGRATION_LOCK = 0x51DE7A
_POSTGRES = "postgresql+psycopg"
_CONNECT_SECONDS = 5
_POSTGRES_ARGUMENTS = {
    "connect_timeout": _CONNECT_SECONDS,
    "tcp_user_timeout": 10_000,
    "application_name": "sidera",
    "options": r"-c statement_timeout=300000 -c lock_timeout=10000 -c default_transaction_isolation=read\ committed",
}
_DOWN = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""What the drivers raise when the database is gone, locked or full."""


class Database:
    """An open database with the tables of this release. All methods may be called from any thread.

    Attributes:
        name: what to call it before people; without its password.
    """

    def __init__(self, database: str) -> None:
        """Open it, make it where it is missing, and bring its tables up to this release.

        Args:
            database: a path, ``sqlite:///path``, or ``postgresql://user:password@host/name``.

        Raises:
            StoreError: it cannot be opened, is neither of these, or is of a newer release.
        """
        url = _url(database)
        self.name = url.set(query={}).render_as_string(hide_password=True) if url.host else str(url.database)
        self.is_postgres = url.get_backend_name() == "postgresql"
        self._engine = _engine(url)
        try:
            with self.writing() as connection:
                _migrate(connection, self.name, self.is_postgres)
        except (sa.exc.SQLAlchemyError, StoreError) as error:
            self.close()
            if type(error) is StoreError:
                raise
            reason = error.__cause__ if isinstance(error, StoreUnavailableError) else error
            told = getattr(reason, "orig", None) or reason
            raise StoreError(
                f"database {self.name} cannot be opened ({_one_line(told)}); set SIDERA_DATABASE to a writable file "
                "or a PostgreSQL server that answers"
            ) from error

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        isolation = {"isolation_level": "REPEATABLE READ"} if self.is_postgres else {}
        with self._transaction(isolation) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is written as a whole, or not at all if it raises.

        Raises:
            StoreUnavailableError: the database does not answer, is locked for too long, or is full.
        """
        with self._transaction({WRITES: True}) as connection:
            yield connection

    @contextmanager
    def _transaction(self, options: Mapping[str, object]) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(**options)
                with connection.begin():
                    yield connection
        except _DOWN as error:
            raise StoreUnavailableError(f"database {self.name} does not answer") from error

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()


def _url(database: str) -> sa.URL:
    if "://" not in database:
        return sa.URL.create("sqlite", database=str(Path(database)))
    try:
        url = sa.make_url(database)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(
            "SIDERA_DATABASE is not a URL; use a path, sqlite:///path or postgresql://user:password@host/name"
        ) from None
    if url.drivername in ("postgresql", "postgres", _POSTGRES):
        return url.set(drivername=_POSTGRES)
    if url.drivername != "sqlite":
        raise StoreError(f"SIDERA_DATABASE names {url.drivername!r}; use a path, sqlite:///path or postgresql://...")
    return url


def _engine(url: sa.URL) -> sa.Engine:
    """``hide_parameters``: a failed statement is told without the texts of items."""
    if url.drivername == _POSTGRES:
        try:
            return sa.create_engine(
                url, hide_parameters=True, pool_pre_ping=True, pool_timeout=10, connect_args=_POSTGRES_ARGUMENTS
            )
        except ModuleNotFoundError as error:
            raise StoreError("PostgreSQL needs its driver; install it with: pip install 'sidera[postgres]'") from error
    engine = sa.create_engine(url, hide_parameters=True)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own; see _begin_sqlite
    cursor = connection.cursor()
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """A late lock would let two processes read before either writes."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")


def _migrate(connection: sa.Connection, name: str, is_postgres: bool) -> None:
    """Take the steps that the database lacks; the transaction holds a lock, so other processes wait."""
    if is_postgres:
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision == newest:
        return
    if revision is None and sa.inspect(connection).has_table(STATE.name):
        schema = connection.scalar(sa.select(STATE.c.schema_version))
        if schema not in (None, _OLD_SCHEMA):
            raise StoreError(
                f"database {name} has schema {schema} and no migrations, which no release of Sidera wrote; choose "
                "another with SIDERA_DATABASE"
            )
        if schema is None:  # its first opening was cut off
            connection.execute(STATE.insert().values(id=1, schema_version=_OLD_SCHEMA, catalog_version=0))
        command.stamp(config, _FIRST_REVISION)
    elif revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
        raise StoreError(
            f"database {name} was written by a newer release of Sidera (migration {revision!r}, this release knows up "
            f"to {newest!r}); run that release, or choose another database with SIDERA_DATABASE"
        )
    command.upgrade(config, "head")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
