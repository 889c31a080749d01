"""Recommending for all users of a file."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest

import sidera.jobs.batch
from sidera.cli import main
from sidera.errors import BatchError, BundleError
from sidera.files import write_atomically
from sidera.jobs.batch import answer_here, recommend_for_file, sentences
from sidera.jobs.batch_part import BatchConfig, Counts
from sidera.jobs.histories import write_parts
from sidera.loading import load_bundle
from sidera.progress import Advance
from sidera.recommender import Query
from tests import tiny
from tests.sidera.jobs.test_histories import NOW, events_file, users_file

HISTORIES = {
    "ann": [("books", "books-2"), ("films", "films-4"), ("books", "books-4")],
    "bob": [("films", "films-1"), ("films", "films-3"), ("films", "films-5"), ("games", "games-7")],
    "cal": [],
    "dot": [("books", "books-7"), ("books", "no-such-book"), ("music", "books-1")],
    "eve": [("books", "no-such-book")],
    "fay": [("games", f"games-{step}") for step in range(0, 30, 2)],
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidera.jobs.batch, "USERS_A_PART", 2)


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    return users_file(tmp_path / "histories.parquet", HISTORIES)


def answers_of(out: Path) -> dict[tuple[str, str], tuple[list[str], list[float]]]:
    rows = pq.read_table(out).to_pylist()
    found = {(row["user_id"], row["domain"]): (row["item_ids"], row["scores"]) for row in rows}
    assert len(found) == len(rows)
    return found


def ranked(items: Sequence[str], scores: Sequence[float]) -> list[tuple[float, str]]:
    """Scores as far as rounding lets them be compared, and the items, those of equal scores by id."""
    return sorted(
        ((round(score, 3), item) for item, score in zip(items, scores, strict=True)), key=lambda p: (-p[0], p[1])
    )


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_every_user_gets_in_every_domain_what_the_recommender_answers_alone(
    tiny_bundle: Path, histories: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.parquet"
    counts = recommend_for_file(tiny_bundle, histories, out, BatchConfig(num_results=4, batch_size=5))
    recommender = load_bundle(tiny_bundle, "cpu").recommender
    found = answers_of(out)
    assert list(found) == [(user, domain) for user in HISTORIES for domain in recommender.catalog.domains]
    for (user, domain), (items, scores) in found.items():
        (alone,) = recommender.recommend([Query(domain, tuple(HISTORIES[user]), num_results=4)])
        own = [item.score for item in alone.items]
        np.testing.assert_allclose(scores, own, atol=1e-5)
        assert ranked(items, scores) == ranked([item.item_id for item in alone.items], own)
    assert counts == Counts(
        users=6,
        entries=26,
        unknown_entries=3,
        first_unknown=("books", "no-such-book"),
        without_history=2,
    )


def test_events_are_answered_as_the_histories_that_they_make(
    tiny_bundle: Path, histories: Path, tmp_path: Path
) -> None:
    events = [
        (user, domain, item, NOW + step)
        for user, history in HISTORIES.items()
        for step, (domain, item) in enumerate(history)
    ]
    mixed = [events[row] for row in np.random.default_rng(0).permutation(len(events))]
    config = BatchConfig(("films",), num_results=3)
    recommend_for_file(tiny_bundle, histories, tmp_path / "a.parquet", config)
    recommend_for_file(tiny_bundle, events_file(tmp_path / "e.parquet", mixed), tmp_path / "b.parquet", config)
    by_user, by_event = answers_of(tmp_path / "a.parquet"), answers_of(tmp_path / "b.parquet")
    assert set(by_event) == {key for key in by_user if key[0] != "cal"}
    for key, answer in by_event.items():
        assert key[1] == "films"
        assert ranked(*answer) == ranked(*by_user[key])


def test_seen_items_come_back_only_where_they_may(tiny_bundle: Path, histories: Path, tmp_path: Path) -> None:
    seen = {item for _, item in HISTORIES["fay"]}
    for exclude in (True, False):
        out = tmp_path / f"{exclude}.parquet"
        config = BatchConfig(("games",), num_results=tiny.DOMAINS["games"], exclude_history=exclude)
        counts = recommend_for_file(tiny_bundle, histories, out, config)
        items, _ = answers_of(out)["fay", "games"]
        assert bool(seen & set(items)) is not exclude
        assert len(items) == tiny.DOMAINS["games"] - (len(seen) if exclude else 0)
        assert counts.short == (2 if exclude else 0)


def test_a_second_start_answers_only_the_parts_that_the_first_left_and_gives_the_same_file(
    tiny_bundle: Path, histories: Path, tmp_path: Path
) -> None:
    answered: list[list[int]] = []

    def killed_after(parts: int) -> Any:
        def answer(
            bundle: Path, config: BatchConfig, users: Path, answers: Path, todo: Sequence[int], advance: Advance
        ) -> None:
            answered.append(list(todo))
            answer_here(bundle, config, users, answers, todo[:parts], advance)
            if parts < len(todo):
                (answers / "part-000001.partial").write_bytes(b"half a file")
                raise KeyboardInterrupt

        return answer

    out, config = tmp_path / "answers.parquet", BatchConfig()
    with pytest.raises(KeyboardInterrupt):
        recommend_for_file(tiny_bundle, histories, out, config, killed_after(1))
    assert not out.exists()
    counts = recommend_for_file(tiny_bundle, histories, out, config, killed_after(9))
    assert answered == [[0, 1, 2], [1, 2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.parquet", "histories.parquet"]
    whole = tmp_path / "whole.parquet"
    assert recommend_for_file(tiny_bundle, histories, whole, config) == counts
    assert out.read_bytes() == whole.read_bytes()


def test_histories_that_were_read_halfway_are_read_again(
    tiny_bundle: Path, histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, folder: Path, users: int, advance: Advance) -> int:
        (folder / "part-000000.parquet").write_bytes(b"")
        raise KeyboardInterrupt

    out = tmp_path / "answers.parquet"
    monkeypatch.setattr(sidera.jobs.batch, "write_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recommend_for_file(tiny_bundle, histories, out, BatchConfig(("books",)))
    monkeypatch.setattr(sidera.jobs.batch, "write_parts", write_parts)
    recommend_for_file(tiny_bundle, histories, out, BatchConfig(("books",)))
    assert [user for user, _ in answers_of(out)] == list(HISTORIES)


def test_parts_of_another_question_are_thrown_away(tiny_bundle: Path, histories: Path, tmp_path: Path) -> None:
    def killed(
        bundle: Path, config: BatchConfig, users: Path, answers: Path, todo: Sequence[int], advance: Advance
    ) -> None:
        answer_here(bundle, config, users, answers, todo[:1], advance)
        raise KeyboardInterrupt

    out = tmp_path / "answers.parquet"
    with pytest.raises(KeyboardInterrupt):
        recommend_for_file(tiny_bundle, histories, out, BatchConfig(("books",), num_results=2), killed)
    recommend_for_file(tiny_bundle, histories, out, BatchConfig(("books",), num_results=3))
    assert {len(items) for items, _ in answers_of(out).values()} == {3}
    with pytest.raises(KeyboardInterrupt):
        recommend_for_file(tiny_bundle, histories, tmp_path / "b.parquet", BatchConfig(("books",)), killed)
    os.utime(users_file(histories, {"zoe": []}), ns=(1, 1))
    recommend_for_file(tiny_bundle, histories, tmp_path / "b.parquet", BatchConfig(("books",)))
    assert list(answers_of(tmp_path / "b.parquet")) == [("zoe", "books")]


def test_a_whole_file_is_kept_and_one_that_answers_something_else_is_not_overwritten(
    tiny_bundle: Path, histories: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "answers.parquet", BatchConfig(("books",))
    counts = recommend_for_file(tiny_bundle, histories, out, config)
    written = out.stat().st_mtime_ns
    assert recommend_for_file(tiny_bundle, histories, out, BatchConfig(("books",), batch_size=2)) == counts
    assert out.stat().st_mtime_ns == written
    with pytest.raises(BatchError, match="the file exists and answers something else; delete it or give another --out"):
        recommend_for_file(tiny_bundle, histories, out, BatchConfig(("films",)))
    write_atomically(out, b"notes")
    with pytest.raises(BatchError, match="answers something else"):
        recommend_for_file(tiny_bundle, histories, out, config)


def test_a_folder_in_the_way_of_the_steps_is_never_emptied(tiny_bundle: Path, histories: Path, tmp_path: Path) -> None:
    notes = tmp_path / "answers.parquet.parts" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(BatchError, match="the folder holds other files, and its name is needed; move it away"):
        recommend_for_file(tiny_bundle, histories, tmp_path / "answers.parquet", BatchConfig())
    assert notes.read_text() == "mine"


def test_a_file_without_users_gives_a_file_without_answers(tiny_bundle: Path, tmp_path: Path) -> None:
    empty = users_file(tmp_path / "empty.parquet", {})
    assert recommend_for_file(tiny_bundle, empty, tmp_path / "out.parquet", BatchConfig()) == Counts()
    table = pq.read_table(tmp_path / "out.parquet")
    assert (len(table), table.column_names) == (0, ["user_id", "domain", "item_ids", "scores"])


def test_wrong_questions_are_refused_before_anything_is_written(
    tiny_bundle: Path, histories: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "answers.parquet"
    with pytest.raises(BatchError, match="there is no domain 'music'; the bundle's domains are books, films, games"):
        recommend_for_file(tiny_bundle, histories, out, BatchConfig(("music",)))
    with pytest.raises(BundleError, match="is not a bundle"):
        recommend_for_file(tmp_path, histories, out, BatchConfig())
    with pytest.raises(BatchError, match=r"the file cannot be read as parquet"):
        recommend_for_file(tiny_bundle, tmp_path / "none.parquet", out, BatchConfig())
    with pytest.raises(BatchError, match="num_results is 0; give a number of at least 1"):
        BatchConfig(num_results=0)
    assert not out.parent.exists()


def test_the_command_answers_and_tells_what_was_unknown(
    tiny_bundle: Path, histories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.parquet"
    assert run("batch", tiny_bundle, "--histories", histories, "--out", out, "--domain", "books", "--k", "40") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"6 users are answered in {out}.",
        "3 of 26 entries of the histories name items that the bundle does not hold and were left out, "
        "'no-such-book' of 'books' the first of them.",
        "Of 2 users nothing is known; they got what the domain alone says.",
        "6 answers have fewer items than asked for, since no more are allowed.",
    ]
    assert {domain for _, domain in answers_of(out)} == {"books"}
    assert run("batch", tiny_bundle, "--histories", histories, "--out", out) == 1
    assert capsys.readouterr().err.startswith(f"Error: {out}: the file exists and answers something else")


def test_ray_that_is_not_installed_is_one_sentence_that_names_the_extra(
    tiny_bundle: Path,
    histories: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sidera.jobs.ray_batch", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "answers.parquet"
    assert run("batch", tiny_bundle, "--histories", histories, "--out", out, "--ray") == 1
    printed = capsys.readouterr()
    assert printed.err == (
        "Error: sidera batch --ray needs the package 'ray'; install the extra: pip install 'sidera[ray]'\n"
    )
    assert not out.exists()


def test_nothing_is_said_of_what_did_not_happen() -> None:
    assert list(sentences(Counts(users=1200), Path("a.parquet"))) == ["1,200 users are answered in a.parquet."]


def addresses_listened_on() -> set[str]:
    """Where this process and those that it started accept connections."""
    own = psutil.Process()
    sockets = [socket for process in (own, *own.children(recursive=True)) for socket in process.net_connections("tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
@pytest.mark.filterwarnings("ignore")
def test_two_workers_of_ray_give_the_file_that_one_process_gives_and_no_other_machine_can_reach_them(
    tiny_bundle: Path, histories: Path, tmp_path: Path
) -> None:
    from sidera.jobs.ray_batch import ray_answerer

    listening: set[str] = set()

    def answer_watched(
        bundle: Path, config: BatchConfig, users: Path, answers: Path, parts: Sequence[int], advance: Advance
    ) -> None:
        def told(rows: int) -> None:
            listening.update(addresses_listened_on())
            advance(rows)

        ray_answerer(2)(bundle, config, users, answers, parts, told)

    config = BatchConfig(num_results=3, device="cpu")
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    assert recommend_for_file(tiny_bundle, histories, theirs, config, answer_watched) == recommend_for_file(
        tiny_bundle, histories, ours, config
    )
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    one, two = answers_of(ours), answers_of(theirs)
    assert list(one) == list(two)
    for key, answer in one.items():
        np.testing.assert_allclose(two[key][1], answer[1], atol=1e-5)
        assert ranked(*two[key]) == ranked(*answer)
