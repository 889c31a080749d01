"""The commands that make and score a bundle, as a person meets them."""

import json
from pathlib import Path

import pytest

from sidera.bundle import open_bundle
from sidera.cli import main
from tests import tiny


def run(*arguments: object) -> int:
    """The exit code of ``sidera ARGUMENTS``."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_missing_config_is_one_sentence_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", tmp_path / "none.yaml") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"Error: {tmp_path / 'none.yaml'}: the config cannot be read")
    assert printed.err.count("\n") == 1


def test_training_on_a_folder_that_is_not_there_is_one_sentence_and_exit_code_1(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tiny.config_of(tmp_path, tmp_path / "bundle", tiny_encoder)
    path = tiny.write_config(tmp_path / "config.yaml", document)
    assert run("train", path, "--data", tmp_path / "nowhere") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"Error: {tmp_path / 'nowhere'}: there is no such folder")
    assert printed.err.count("\n") == 1


def test_train_flags_override_the_config(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_bundle.parent / "config.yaml"
    assert run("train", config, "--domains", "books,music", "--out", tmp_path / "bundle") == 1
    assert "there is no domain 'music'; choose among books, films, games" in capsys.readouterr().err
    assert run("train", config, "--domains", ",") == 2
    assert "name at least one domain" in capsys.readouterr().err


def test_a_finished_training_says_that_everything_is_kept_and_prints_the_report(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before = (tiny_bundle / "manifest.json").read_bytes()
    assert run("train", tiny_bundle.parent / "config.yaml") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("everything kept: neither config nor data have changed since")
    assert printed.err == ""
    assert (tiny_bundle / "manifest.json").read_bytes() == before
    metrics = open_bundle(tiny_bundle).manifest.metrics
    for name, part in {**metrics["domains"], "pooled": metrics["pooled"]}.items():
        assert f"{name} ({part['targets']})" in printed.out
        for figures in part["rankers"].values():
            assert f"{figures['ndcg@10']:.4f}" in printed.out
        for difference in part["differences"].values():
            assert f"{difference['low']:+.4f} .. {difference['high']:+.4f}" in printed.out
    assert "…" not in printed.out, "nothing is cut off at 80 columns"
    assert max(map(len, printed.out.splitlines()[1:-3])) <= 80


def test_evaluate_prints_the_report_and_writes_it_as_json_where_asked(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reports" / "report.json"
    assert run("evaluate", tiny_bundle, "--data", tiny_data, "--json", file) == 0
    assert json.loads(file.read_text()) == open_bundle(tiny_bundle).manifest.metrics
    printed = capsys.readouterr()
    assert "pooled (180)" in printed.out
    assert printed.out.endswith(f"Written to {file}.\n")
    assert printed.err == ""


def test_evaluate_shows_slices_and_notes_where_asked_within_80_columns(
    tiny_bundle: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    data = tiny.write_data(tmp_path, {"films": 40, "plays": 24}, users=20)
    assert run("evaluate", tiny_bundle, "--data", data, "--slices", "--experts") == 0
    printed = capsys.readouterr().out
    assert "cold: at most 3 train events in the domain; short: a history of at most 5 events;" in printed
    assert "Note: left out, since the bundle does not hold them: plays; --new scores them too." in printed
    table = printed[printed.index("Slices: ") : printed.index("cold: at most")]
    assert "cold" in table
    assert "several" not in table, "one domain alone has no histories of several"
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in printed
    parts = printed[printed.index("Experts of the mixture") : printed.index("Note: ")]
    assert max(map(len, parts.splitlines())) <= 80
    assert "popularity" in parts


def test_evaluating_what_is_no_bundle_is_one_sentence(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", tmp_path, "--data", tiny_data) == 1
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path} is not a bundle")


def test_data_check_counts_a_good_folder_and_ends_with_0(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", tiny_data, "--domains", "books,games") == 0
    printed = capsys.readouterr().out
    assert "books" in printed
    assert "games" in printed
    assert "films" not in printed
    assert "refused; mend" not in printed


def test_data_check_names_bad_rows_by_file_and_line_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"item_id": "a", "title": "[red]door"}, {"item_id": "a", "title": "again"}]
    tiny.write_domain(tmp_path / "books", items, [("u", "a", 1_600_000_000), ("u", "zzz", 1_600_000_001)])
    assert run("data", "check", tmp_path) == 1
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'books' / 'items.jsonl'}:2: " in printed
    assert f"{tmp_path / 'books' / 'interactions.csv'}:3: " in printed
    assert "2 rows are refused; mend them, or training stops at the first one." in printed


def test_data_check_names_as_many_bad_rows_of_a_file_as_asked_and_says_how_many_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"item_id": "a", "title": "Ant"}, *({"item_id": "a", "title": "again"} for _ in range(4))]
    tiny.write_domain(tmp_path / "books", items, [("u", "a", 1_600_000_000)])
    path = tmp_path / "books" / "items.jsonl"
    assert run("data", "check", tmp_path, "--limit", 3) == 1
    printed = capsys.readouterr().out
    assert f"{path}:4: " in printed
    assert f"{path}:5: " not in printed
    assert f"{path}: 1 more rows are refused; --limit 4 names them too" in printed
    assert run("data", "check", tmp_path, "--limit", 4) == 1
    printed = capsys.readouterr().out
    assert f"{path}:5: " in printed
    assert "more rows" not in printed


def test_data_check_says_what_min_interactions_would_drop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"item_id": str(item), "title": "door"} for item in range(5)]
    events = [("many", str(item), 1_600_000_000 + item) for item in range(5)] + [("few", "1", 1_600_000_000)]
    tiny.write_domain(tmp_path / "books", items, events)
    assert run("data", "check", tmp_path, "--min-interactions", 3) == 0
    assert "--min-interactions 3 would drop from books: 1 users with 1 events." in capsys.readouterr().out


def test_data_check_tells_how_many_items_have_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"item_id": "a", "title": "Ant"}, {"item_id": "b"}]
    tiny.write_domain(tmp_path / "shop", items, [("u", item, 1) for item in "baa"])
    tiny.write_domain(tmp_path / "video", items[:1], [("u", "a", 1)])
    assert run("data", "check", tmp_path) == 0
    printed = capsys.readouterr().out
    made = "training makes their vectors from the train part's events, and refuses those that have none there."
    assert f"shop: 1 items have no text; {made}\n" in printed
    assert "video: " not in printed


def test_the_table_of_data_check_is_not_cut_off_at_80_columns(
    tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("data", "check", tiny_data) == 0
    assert "…" not in capsys.readouterr().out


def test_a_folder_as_the_file_of_the_report_is_refused_before_anything_is_computed(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", tiny_bundle, "--data", tiny_data, "--json", tmp_path) == 2
    assert "Invalid value for '--json'" in capsys.readouterr().err


def test_data_check_of_a_folder_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "check", tmp_path / "nowhere") == 1
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path / 'nowhere'}: there is no such folder")
