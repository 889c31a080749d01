"""Opening a database: which ones are allowed, what becomes of older and newer ones, and what is told of them."""

from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.catalog.database import Database
from service.catalog.store import SqlStore
from service.catalog.tables import METADATA, STATE
from service.errors import StoreError
from tests.postgres import Postgres
from tests.processes import PROCESSES
from tests.service.catalog.test_store import item, write

OLD_FILE = """
CREATE TABLE catalog_state (
    id INTEGER NOT NULL, schema_version INTEGER NOT NULL, catalog_version INTEGER NOT NULL, PRIMARY KEY (id)
);
CREATE TABLE live_items (
    domain VARCHAR(64) NOT NULL, item_id VARCHAR(256) NOT NULL, fields JSON NOT NULL, encoder VARCHAR(64) NOT NULL,
    vector BLOB NOT NULL, added_version INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (domain, item_id)
);
CREATE TABLE live_sids (
    tokenizer VARCHAR(64) NOT NULL, domain VARCHAR(64) NOT NULL, item_id VARCHAR(256) NOT NULL,
    sid VARCHAR(128) NOT NULL, moved BOOLEAN NOT NULL, PRIMARY KEY (tokenizer, domain, item_id),
    FOREIGN KEY(domain, item_id) REFERENCES live_items (domain, item_id), UNIQUE (tokenizer, domain, sid)
);
INSERT INTO catalog_state VALUES (1, 1, 7);
INSERT INTO live_items VALUES ('drama', 'x', '{"title": "Film"}', 'encoder', x'0000003f000080bf', 2, 0);
INSERT INTO live_items VALUES ('drama', 'y', '{"title": "Other"}', 'encoder', x'0000003f000080bf', 7, 0);
INSERT INTO live_sids VALUES ('a', 'drama', 'x', '0,1', 0);
INSERT INTO live_sids VALUES ('b', 'drama', 'x', '2,2', 1);
"""


def change(path: Path, statements: str) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for statement in filter(None, map(str.strip, statements.split(";"))):
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.db"


def test_a_path_and_its_url_are_the_same_database(path: Path) -> None:
    store = SqlStore(str(path))
    write(store, 1, item("x", (0, 1)))
    store.close()
    again = SqlStore(f"sqlite:///{path}")
    assert again.version() == 1
    again.close()


def test_the_migrations_end_with_the_tables_that_the_code_uses(database: str) -> None:
    opened = Database(database)
    with opened.writing() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    opened.close()
    assert differences == []


def test_a_file_of_a_release_before_migrations_is_brought_up_with_all_that_it_holds(path: Path) -> None:
    change(path, OLD_FILE)
    store = SqlStore(str(path))
    loaded = store.load("a")
    assert loaded.version == 7
    assert [(row.item_id, row.fields, row.sid) for row in loaded.items] == [
        ("x", {"title": "Film"}, (0, 1)),
        ("y", {"title": "Other"}, None),
    ]
    assert [(row.sid, row.moved) for row in store.load("b").items] == [((2, 2), True), (None, False)]
    assert store.vectors([("drama", "x")])["drama", "x"].vector_D.tolist() == [0.5, -1.0]
    assert store.load("a", since=7).items == ()
    write(store, 8, item("z", (3, 3)))
    store.close()
    again = SqlStore(str(path))
    assert again.version() == 8
    again.close()


def test_such_a_release_refuses_the_file_from_then_on(path: Path) -> None:
    change(path, OLD_FILE)
    opened = Database(str(path))
    with opened.reading() as connection:
        assert connection.scalar(sa.select(STATE.c.schema_version)) == 2
    opened.close()


def test_a_database_of_a_newer_release_is_refused_by_name(database: str) -> None:
    opened = Database(database)
    with opened.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    opened.close()
    with pytest.raises(StoreError, match=r"newer release of Sidera \(migration '9999'"):
        Database(database)


def test_a_file_with_a_schema_that_no_release_wrote_is_refused(path: Path) -> None:
    change(path, OLD_FILE + "UPDATE catalog_state SET schema_version = 99;")
    with pytest.raises(StoreError, match="schema 99"):
        Database(str(path))


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    change(path, OLD_FILE + "CREATE TABLE service_notes (name INTEGER);")
    with pytest.raises(StoreError, match="service_notes"):
        Database(str(path))
    change(path, "DROP TABLE service_notes; UPDATE live_items SET position = 1 WHERE item_id = 'y'")
    store = SqlStore(str(path))
    assert [row.item_id for row in store.load("a").items] == ["x", "y"]
    store.close()


def open_together(begin: Barrier, database: str) -> None:
    """What each of the processes does; its exit code is 0 if the catalog that it sees is new."""
    begin.wait(60)
    raise SystemExit(SqlStore(database).version())


def test_processes_that_start_at_once_on_an_empty_database_all_open_it(database: str) -> None:
    begin = PROCESSES.Barrier(3)
    openers = [PROCESSES.Process(target=open_together, args=(begin, database)) for _ in range(3)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0, 0, 0]


def test_acknowledged_changes_outlive_a_power_cut_by_full_synchronisation(path: Path) -> None:
    opened = Database(str(path))
    with opened.writing() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    opened.close()


@pytest.mark.parametrize("database", ["mysql://localhost/items", "sqlite//x://", "postgresql://host:port/items"])
def test_another_database_is_refused_by_name(database: str) -> None:
    with pytest.raises(StoreError, match="SIDERA_DATABASE"):
        Database(database)


def _garbage(path: Path) -> str:
    path.write_bytes(b"not a database at all" * 100)
    return str(path)


@pytest.mark.parametrize(
    "broken", [_garbage, lambda path: str(path.parent / "missing" / "items.db"), lambda path: str(path.parent)]
)
def test_a_file_that_cannot_be_a_database_is_refused(path: Path, broken: Callable[[Path], str]) -> None:
    with pytest.raises(StoreError, match="SIDERA_DATABASE"):
        Database(broken(path))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:sesame@127.0.0.1:1/items",
        "postgresql://me@127.0.0.1:1/items?password=sesame",
        "mysql://me:sesame@127.0.0.1/items",
        "postgresql://me:sesame@127.0.0.1:port/items",
    ],
)
def test_a_password_is_in_no_message_of_a_database_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(StoreError) as refused:
        Database(url)
    error: BaseException | None = refused.value
    while error is not None:
        assert "sesame" not in f"{error} {error!r}"
        error = error.__cause__


def test_writers_see_what_was_committed_while_they_waited_whatever_the_server_does_by_default(
    postgres: Postgres,
) -> None:
    url = postgres.new_database()
    name = sa.make_url(url).database
    first = Database(url)
    with first.writing() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable')
    first.close()
    opened = Database(url)
    with opened.reading() as connection:
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "repeatable read"
    with opened.writing() as connection:
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
    opened.close()
