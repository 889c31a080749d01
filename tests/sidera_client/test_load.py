"""The load program: its loops, what it makes of answers, and the command."""

import asyncio
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidera.cli import main
from sidera_client.load import CONNECTION_FAILED, NO_CONNECTION, TIMED_OUT, Load, Loader, Outcome, Shot, repeated
from sidera_client.load_bodies import BodiesError, read_bodies
from sidera_client.load_report import Latencies, percentile, report_of
from sidera_client.wire import Target, _whole_reply
from tests.service.fakes import FakeModel
from tests.service.test_uvicorn import listening


@contextmanager
def replying(reply: bytes | None) -> Iterator[tuple[Target, list[bytes]]]:
    """A server that answers every request with these bytes; None: it never answers; empty: it hangs up."""
    seen: list[bytes] = []
    stopped = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while request := self.request.recv(65536):
                seen.append(request)
                if reply is None:
                    stopped.wait(20)
                if not reply:
                    return
                self.request.sendall(reply)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Target.of(f"http://127.0.0.1:{server.server_address[1]}"), seen
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-request-id: 7\r\n\r\n{}"


def closed(target: Target, seconds: float = 0.2, clients: int = 2, timeout: float = 5.0) -> Load:
    async def run() -> Load:
        loader = Loader(target, timeout)
        load = await loader.closed(repeated([Shot(target.request("POST", "/recommend", b"{}"))]), clients, seconds)
        loader.close()
        return load

    return asyncio.run(run())


def kinds(load: Load) -> set[str]:
    return {outcome.kind for outcome in load.outcomes}


def test_a_closed_loop_asks_until_its_time_is_over() -> None:
    with replying(OK) as (target, seen):
        load = closed(target)
    assert kinds(load) == {"200"}
    assert len(load.outcomes) == len(seen) > 2
    assert seen[0].startswith(b"POST /recommend HTTP/1.1\r\nhost: 127.0.0.1:")
    assert load.cpu_seconds > 0


def test_an_open_loop_sends_as_many_as_its_rate_says_though_nobody_answers() -> None:
    async def run(target: Target) -> Load:
        loader = Loader(target, timeout=0.3)
        return await loader.open(repeated([Shot(target.request("POST", "/recommend", b"{}"))]), 200.0, 0.5, seed=1)

    with replying(None) as (target, _):
        load = asyncio.run(run(target))
    assert 60 < len(load.outcomes) < 140
    assert kinds(load) == {TIMED_OUT}


def test_an_open_loop_says_when_it_may_open_no_more_connections() -> None:
    async def run(target: Target) -> Load:
        loader = Loader(target, timeout=0.3, most_connections=1)
        return await loader.open(repeated([Shot(target.request("POST", "/", b""))]), 100.0, 0.2)

    with replying(None) as (target, _):
        assert kinds(asyncio.run(run(target))) == {TIMED_OUT, NO_CONNECTION}


def test_connections_that_bring_no_answer_are_told_as_such() -> None:
    with replying(b"") as (target, _):
        assert kinds(closed(target)) == {CONNECTION_FAILED}
    assert kinds(closed(target)) == {CONNECTION_FAILED}
    with replying(b"SSH-2.0-OpenSSH\r\n\r\n") as (target, _):
        assert kinds(closed(target)) == {CONNECTION_FAILED}


def test_every_answer_is_shown_to_who_wants_to_check_it() -> None:
    async def run(target: Target) -> list[tuple[int, bytes, str]]:
        seen: list[tuple[int, bytes, str]] = []
        loader = Loader(
            target, on_reply=lambda shot, reply: seen.append((reply.status, reply.body, reply.headers["x-request-id"]))
        )
        await loader.closed(repeated([Shot(target.request("POST", "/", b""))]), 1, 0.05)
        loader.close()
        return seen

    with replying(OK) as (target, _):
        assert set(asyncio.run(run(target))) == {(200, b"{}", "7")}


def test_an_answer_is_read_however_it_is_cut() -> None:
    received = bytearray()
    found = []
    for byte in OK + OK:
        received.append(byte)
        reply = _whole_reply(received)
        found += [] if reply is None else [reply.body]
    assert found == [b"{}", b"{}"]
    assert received == b""


def test_a_target_is_read_from_its_address() -> None:
    target = Target.of("https://shop.example/sidera/", "key")
    assert (target.host, target.port, target.secure, target.prefix) == ("shop.example", 443, True, "/sidera")
    assert target.request("GET", "/v1/info", b"").startswith(b"GET /sidera/v1/info HTTP/1.1\r\nhost: shop.example\r\n")
    assert b"authorization: Bearer key\r\n" in target.headers
    for wrong in ("ftp://x", "localhost:8000", "http://"):
        with pytest.raises(ValueError, match="address"):
            Target.of(wrong)
    with pytest.raises(ValueError, match="ASCII"):
        Target.of("http://x", "a\r\nb: c")


def test_percentiles_are_of_the_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, share) for share in (1, 50, 90, 99, 100)] == [1.0, 50.0, 90.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_a_report_counts_only_successes_as_throughput_and_keeps_kinds_apart() -> None:
    outcomes = [Outcome("200", 0.0, 0.010), Outcome("200", 0.0, 0.030), Outcome("429", 0.0, 0.001)]
    report = report_of(Load(outcomes, seconds=2.0, cpu_seconds=1.0))
    assert report.succeeded_per_second == 1.0
    assert report.client_cores == 0.5
    assert report.requests == 3
    assert report.by_kind == {"200": Latencies(2, 10.0, 30.0, 30.0, 30.0), "429": Latencies(1, 1.0, 1.0, 1.0, 1.0)}


def test_requests_are_read_from_json_lines_and_from_parquet(tmp_path: Path) -> None:
    lines = [{"domain": "films", "history": ["a", {"item_id": "b", "domain": "books"}], "num_results": 5}]
    (tmp_path / "h.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    expected = {"domain": "films", "history": [{"item_id": "a"}, {"item_id": "b", "domain": "books"}], "num_results": 5}
    assert read_bodies(tmp_path / "h.jsonl") == [expected]
    (tmp_path / "h.json").write_text(json.dumps(lines))
    assert read_bodies(tmp_path / "h.json", num_results=9) == [expected | {"num_results": 9}]
    table = pa.table({"domain": ["films"], "history": [[{"item_id": "a", "domain": None}]], "num_results": [None]})
    pq.write_table(table, tmp_path / "h.parquet")
    assert read_bodies(tmp_path / "h.parquet") == [{"domain": "films", "history": [{"item_id": "a"}]}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("h.csv", "x", "ends in"),
        ("h.jsonl", "", "holds no request"),
        ("h.jsonl", '{"domain": "d"}\n{', r"h\.jsonl:2"),
        ("h.jsonl", '{"history": []}', "request 1: it names no domain"),
        ("h.jsonl", '{"domain": "d", "history": "x"}', "no list"),
        ("h.parquet", "x", "no parquet"),
        ("missing/h.json", None, "cannot be read"),
    ],
)
def test_a_file_that_does_not_do_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BodiesError, match=said):
        read_bodies(tmp_path / name)


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    code = stop.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize("how", [["--clients", "2"], ["--rate", "50"]], ids=["closed", "open"])
def test_the_command_loads_a_service_and_writes_what_it_measured(
    tmp_path: Path, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    with listening(tmp_path, FakeModel()) as port:
        url = f"http://127.0.0.1:{port}"
        assert bench(url, *how, "--seconds", "0.5", "--warm-up", "0", "--history", "3", "--json", str(out)) == 0
    written = json.loads(out.read_text())
    assert set(written["by_kind"]) == {"200"}
    assert written["by_kind"]["200"]["count"] == written["requests"] > 1
    assert written["succeeded_per_second"] > 0
    assert "answers of 200 a second" in capsys.readouterr().out


def test_the_command_fails_when_nothing_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.jsonl").write_text('{"domain": "opera"}')
    with listening(tmp_path, FakeModel()) as port:
        url = f"http://127.0.0.1:{port}"
        arguments = [url, "--histories", str(tmp_path / "h.jsonl"), "--seconds", "0.2", "--warm-up", "0"]
        assert bench(*arguments) == 1
        assert bench(url, "--domain", "opera") == 1
    said = capsys.readouterr()
    assert "404" in said.out
    assert "no request succeeded" in said.err
    assert "it has comedy, drama" in said.err


def test_a_service_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("http://127.0.0.1:9", "--timeout", "0.3") == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
