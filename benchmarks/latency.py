"""How long one recommendation takes: inside the engine, and over HTTP on one connection that stays open."""

import json

from benchmarks.harness import Figure, latency_figures, timed
from benchmarks.processes import Client, body_of, served
from benchmarks.samples import Bench
from training.progress import track

_WARM_UP = 20


def measure_engine(bench: Bench, calls: int) -> dict[str, Figure]:
    """``Recommender.recommend`` of one query at a time, in this process."""
    queries = [[query] for query in bench.queries[: calls + _WARM_UP]]
    seconds = []
    with track("recommend in process", len(queries)) as advance:
        for query in queries:
            seconds.append(timed(bench.loaded.recommender.recommend, query))
            advance()
    return latency_figures("recommend_engine", seconds[_WARM_UP:])


def measure_http(bench: Bench, calls: int) -> dict[str, Figure]:
    """``POST /recommend`` of one client after another answer has come, against a real service.

    Raises:
        ServiceProcessError: the service does not start, or refuses a request.
    """
    queries = bench.queries[: calls + _WARM_UP]
    bodies = [body_of(query.domain, query.history, query.num_results) for query in queries]
    seconds = []
    with served(bench.path) as port, track("recommend over HTTP", len(bodies)) as advance:
        client = Client(port)
        for body in bodies:
            seconds.append(timed(lambda body: json.loads(client.post("/recommend", body)), body))
            advance()
        client.close()
    return latency_figures("recommend_http", seconds[_WARM_UP:])
