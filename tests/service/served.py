"""A process for tests: a service on a stand-in for a bundle, run as ``sidera serve`` runs it.

Arguments: the database, the seconds that the model takes for a batch, and settings as ``name=value``.
"""

import functools
import sys
import time
from collections.abc import Sequence

import typer

from service.app import create_app
from service.serving import Serving, listen
from service.settings import Settings
from sidera.recommender import Query
from tests.service.fakes import FakeModel, settings


def main(database: str, seconds: str, *given: str) -> None:
    """Serve until a signal."""

    def load(_: Settings) -> FakeModel:
        model = FakeModel(samples=[{"domain": "drama"}])

        def wait(queries: Sequence[Query]) -> None:
            if any(query.num_results == 7 for query in queries):
                typer.echo("computing")
                time.sleep(float(seconds))

        model.before_recommend = wait
        return model

    chosen = settings(database=database, **dict(one.split("=") for one in given))
    listener = listen("127.0.0.1", 0, "")
    admin = None if chosen.admin_port is None else listen("127.0.0.1", 0, "")
    typer.echo(f"{listener.getsockname()[1]} {0 if admin is None else admin.getsockname()[1]}")
    Serving(chosen, listener, admin, create=functools.partial(create_app, load=load)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
