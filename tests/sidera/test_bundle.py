import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.bundle import open_bundle, verify_bundle
from sidera.bundle_writing import write_bundle
from sidera.errors import BundleError
from sidera.manifest import BundleDetails, DomainEntry, FileEntry, Manifest, manifest_bytes, parse_manifest

DETAILS = BundleDetails(
    created="2026-03-01T12:00:00+00:00",
    config={"seed": 7, "title": "Füße", "rate": 0.1},
    lineage={"data": "ab" * 32},
    metrics={"comedy": {"ndcg@10": 0.0439}},
    codebook_sizes=(256, 256),
    domains={"comedy": DomainEntry(token=3, adapter="adapters/domain-comedy"), "drama": DomainEntry(token=4)},
    parts={"tokenizer": "rqvae"},
)
FILES = {
    "tokenizer/config.json": b'{"method": "rqvae"}',
    "tokenizer/weights.safetensors": bytes(range(256)),
    "adapters/domain-comedy/adapter_config.json": b"{}",
    "report/metrics.json": b"",
}


def fill(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def fill_with(text: str) -> Callable[[Path], None]:
    def fill_and_mark(folder: Path) -> None:
        fill(folder)
        (folder / "mark").write_text(text)

    return fill_and_mark


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", fill=fill, details=DETAILS)
    return tmp_path / "bundle"


def siblings(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def forge(bundle: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the manifest and make it consistent again, as an attacker would."""
    document = json.loads((bundle / "manifest.json").read_bytes())
    change(document)
    rest = {key: value for key, value in document.items() if key != "bundle_version"}

    def canonical(value: object) -> bytes:
        return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()

    (bundle / "manifest.json").write_bytes(
        canonical(rest | {"bundle_version": hashlib.sha256(canonical(rest)).hexdigest()})
    )


# Round trip


def test_what_is_written_is_what_is_opened(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "bundle", fill=fill, details=DETAILS)
    opened = open_bundle(tmp_path / "bundle")
    assert opened.manifest == written
    assert {field: getattr(written, field) for field in BundleDetails.__dataclass_fields__} == vars(DETAILS)
    assert {name: opened.path(name).read_bytes() for name in FILES} == FILES
    assert verify_bundle(tmp_path / "bundle") == []
    assert siblings(tmp_path / "bundle") == []


def test_the_same_content_has_the_same_version_and_any_other_content_another(tmp_path: Path) -> None:
    def version(name: str, details: BundleDetails = DETAILS, mark: str = "") -> str:
        return write_bundle(tmp_path / name, fill=fill_with(mark), details=details).bundle_version

    assert version("a") == version("b")
    assert len({version("a"), version("c", mark="x"), version("d", replace(DETAILS, config={}))}) == 3


def test_the_files_of_a_bundle_are_as_readable_as_its_folder(tmp_path: Path) -> None:
    def fill_privately(folder: Path) -> None:
        fill(folder)
        (folder / "tokenizer/weights.safetensors").chmod(0o600)

    write_bundle(tmp_path / "bundle", fill=fill_privately, details=DETAILS)
    readable = (tmp_path / "bundle").stat().st_mode & 0o444
    assert (tmp_path / "bundle/tokenizer/weights.safetensors").stat().st_mode & 0o444 == readable


def test_a_folder_is_handed_out_with_all_its_files_checked(bundle: Path) -> None:
    assert open_bundle(bundle).folder("tokenizer") == bundle / "tokenizer"
    (bundle / "tokenizer/weights.safetensors").write_bytes(bytes(256))
    with pytest.raises(BundleError, match=r"tokenizer/weights\.safetensors was changed"):
        open_bundle(bundle).folder("tokenizer")


# Damage


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "bundle"
    write_bundle(path, fill=fill, details=DETAILS)
    return path


@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_a_flipped_byte_in_any_file_is_found(shared_bundle: Path, data: st.DataObject) -> None:
    names = [name for name in sorted({*FILES, "manifest.json"}) if (shared_bundle / name).stat().st_size]
    name = data.draw(st.sampled_from(names))
    content = (shared_bundle / name).read_bytes()
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (shared_bundle / name).write_bytes(flipped)
    try:
        problems = verify_bundle(shared_bundle)
        assert len(problems) == 1
        assert name in problems[0]
        with pytest.raises(BundleError):
            open_bundle(shared_bundle).path(name)
    finally:
        (shared_bundle / name).write_bytes(content)
    assert verify_bundle(shared_bundle) == []


def test_every_single_byte_of_the_manifest_counts() -> None:
    content = manifest_bytes(DETAILS, {"adapters/domain-comedy/x": FileEntry("0" * 64, 1)})
    for place in range(len(content)):
        for flip in (1, 32):
            flipped = bytearray(content)
            flipped[place] ^= flip
            with pytest.raises(BundleError):
                parse_manifest(bytes(flipped))


def test_a_file_is_not_handed_out_once_its_digest_is_wrong(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (bundle / "tokenizer/config.json").write_bytes(FILES["tokenizer/config.json"].replace(b"rq", b"RQ"))
    with pytest.raises(BundleError, match=r"tokenizer/config\.json was changed: its sha256 is"):
        opened.path("tokenizer/config.json")
    assert opened.path("tokenizer/weights.safetensors").is_file()


def test_a_missing_file_is_refused_at_opening(bundle: Path) -> None:
    (bundle / "report/metrics.json").unlink()
    with pytest.raises(BundleError, match=r"report/metrics\.json is missing"):
        open_bundle(bundle)


def test_a_file_of_another_size_is_refused_at_opening(bundle: Path) -> None:
    (bundle / "tokenizer/config.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"tokenizer/config\.json has 2 bytes, but manifest\.json says 19"):
        open_bundle(bundle)


def test_a_file_that_the_manifest_does_not_name_is_reported_and_never_handed_out(bundle: Path) -> None:
    (bundle / "tokenizer/pytorch_model.bin").write_bytes(b"a pickle")
    assert verify_bundle(bundle) == [f"{bundle}/tokenizer/pytorch_model.bin is not named by manifest.json; remove it"]
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=r"has no file 'tokenizer/pytorch_model\.bin'"):
        opened.path("tokenizer/pytorch_model.bin")
    with pytest.raises(BundleError, match=r"pytorch_model\.bin is not named"):
        opened.folder("tokenizer")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "backbone", "tokenizer/", "tokenizer/config.json"])
def test_a_folder_without_files_in_the_manifest_is_refused(bundle: Path, name: str) -> None:
    with pytest.raises(BundleError, match="has no folder"):
        open_bundle(bundle).folder(name)


def test_links_are_refused_wherever_they_lie(bundle: Path, tmp_path: Path) -> None:
    (bundle / "tokenizer").rename(tmp_path / "elsewhere")
    (bundle / "tokenizer").symlink_to(tmp_path / "elsewhere")
    (bundle / "report/metrics.json").unlink()
    (bundle / "report/metrics.json").symlink_to(os.devnull)
    with pytest.raises(BundleError, match=r"tokenizer is a link|metrics\.json is not a plain file"):
        open_bundle(bundle)
    problems = "\n".join(verify_bundle(bundle))
    assert "tokenizer is a link" in problems
    assert "report/metrics.json is not a plain file" in problems


def test_a_folder_without_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        open_bundle(tmp_path)
    assert len(verify_bundle(tmp_path / "nothing")) == 1


def test_verify_lists_every_problem(bundle: Path) -> None:
    (bundle / "report/metrics.json").unlink()
    (bundle / "tokenizer/weights.safetensors").write_bytes(bytes(256))
    (bundle / "extra").touch()
    assert len(verify_bundle(bundle)) == 3


# Forged manifests: consistent in themselves, and still refused


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "a/../../b", "a//b", "./a", "a/.", "", "a\\b", "a\nb", "a/b/", "manifest.json"]
)
def test_a_name_that_could_leave_the_bundle_is_refused(bundle: Path, name: str) -> None:
    def add(document: dict[str, object]) -> None:
        files = document["files"]
        assert isinstance(files, dict)
        files[name] = {"sha256": "0" * 64, "bytes": 0}

    forge(bundle, add)
    with pytest.raises(BundleError, match=r"is not allowed in a bundle|cannot be one of the files"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema_version", 1, "has schema version 1, but this release reads 2; write the bundle again"),
        ("schema_version", None, "has schema version None"),
        ("created", "yesterday", "expected an ISO 8601 time with its zone"),
        ("created", "2026-03-01T12:00:00", "expected an ISO 8601 time with its zone"),
        ("codebook_sizes", [256, 0], "expected a list of one whole number a level"),
        ("codebook_sizes", [True], "expected a list of one whole number a level"),
        ("codebook_sizes", [], "expected a list of one whole number a level"),
        ("config", [], "'config' is list; expected an object"),
        ("domains", {"a/b": {"token": 0, "adapter": None}}, "domain name 'a/b' is not allowed"),
        ("domains", {"a": {"token": -1, "adapter": None}}, "the domain 'a' needs a token"),
        ("domains", {"a": {"token": 1}}, "the domain 'a' needs a token"),
        ("domains", {"a": {"token": 1, "adapter": 5}}, "the adapter of domain 'a' is int"),
        ("domains", {"a": {"token": 1, "adapter": "adapters/a"}}, "'adapters/a', holds no file"),
        (
            "domains",
            {"a": {"token": 1, "adapter": None}, "b": {"token": 1, "adapter": None}},
            "domains 'a' and 'b' share token 1",
        ),
        ("files", {"a": {"sha256": "xyz", "bytes": 0}}, "the file 'a' needs a sha256 of 64 hex digits"),
        ("files", {"a": {"sha256": "0" * 64, "bytes": -1}}, "the file 'a' has -1 bytes"),
        ("files", {"a": {"sha256": "0" * 64, "bytes": 1.5}}, "the file 'a' has 1.5 bytes"),
        ("more", 1, r"missing fields \[\] and unknown fields \['more'\]"),
    ],
)
def test_a_field_of_a_wrong_kind_is_refused(bundle: Path, field: str, value: object, message: str) -> None:
    forge(bundle, lambda document: document.update({field: value}))
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "\xff", "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', "[" * 5000 + "]" * 5000]
)
def test_a_manifest_that_is_no_manifest_is_one_sentence(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_bytes(text.encode("latin-1"))
    problems = verify_bundle(bundle)
    assert len(problems) == 1
    assert "manifest.json" in problems[0]


def test_a_manifest_in_another_form_of_the_same_content_is_refused(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps(document, sort_keys=True))
    with pytest.raises(BundleError, match="not in canonical form"):
        open_bundle(bundle)


# Writing


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1, 2}])
def test_details_that_are_not_json_are_refused_by_name(tmp_path: Path, value: object) -> None:
    with pytest.raises(BundleError, match="'metrics' cannot be written as JSON"):
        write_bundle(tmp_path / "bundle", fill=fill, details=replace(DETAILS, metrics={"a": value}))
    assert list(tmp_path.iterdir()) == []


def test_a_fill_that_fails_leaves_the_old_bundle_and_nothing_else(bundle: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_bundle(bundle, fill=fail, details=DETAILS)
    assert verify_bundle(bundle) == []
    assert siblings(bundle) == []


def test_a_fill_that_writes_a_link_is_refused(tmp_path: Path) -> None:
    def link(folder: Path) -> None:
        fill(folder)
        (folder / "link").symlink_to("/etc/passwd")

    with pytest.raises(BundleError, match="'link' is not a plain file"):
        write_bundle(tmp_path / "bundle", fill=link, details=DETAILS)


@pytest.mark.parametrize("name", ["manifest.json", "a b", "é"])
def test_a_fill_that_writes_a_name_that_is_not_allowed_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"not allowed in a bundle|cannot be one of the files"):
        write_bundle(tmp_path / "bundle", fill=lambda folder: (folder / name).touch(), details=DETAILS)


def test_an_old_bundle_is_replaced_whole(bundle: Path) -> None:
    (bundle / "leftover").touch()
    write_bundle(bundle, fill=fill_with("new"), details=DETAILS)
    assert verify_bundle(bundle) == []
    assert (bundle / "mark").read_text() == "new"
    assert siblings(bundle) == []


def test_the_old_bundle_is_whole_until_the_new_one_is(bundle: Path) -> None:
    def look(folder: Path) -> None:
        fill(folder)
        assert verify_bundle(bundle) == []

    write_bundle(bundle, fill=look, details=DETAILS)


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    (tmp_path / "file").touch()
    for name in ("home", "file"):
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            write_bundle(tmp_path / name, fill=fill, details=DETAILS)
    assert (tmp_path / "home/thesis.tex").exists()


def test_a_link_to_a_bundle_stays_a_link(bundle: Path) -> None:
    link = bundle.with_name("current")
    link.symlink_to(bundle)
    write_bundle(link, fill=fill_with("new"), details=DETAILS)
    assert link.is_symlink()
    assert (bundle / "mark").read_text() == "new"


WRITER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_bundle import DETAILS, fill
    from sidera.bundle_writing import write_bundle

    def slowly(folder):
        fill(folder)
        print("filled", flush=True)
        time.sleep(60)

    write_bundle(Path({path!r}), fill=slowly, details=DETAILS)
""")


@contextlib.contextmanager
def stuck_writer(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that is in the middle of writing a bundle at ``path``."""
    script = WRITER.format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "filled\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_writer_leaves_is_removed_by_the_next(bundle: Path) -> None:
    with stuck_writer(bundle) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(siblings(bundle)) == 2
    assert verify_bundle(bundle) == []
    write_bundle(bundle, fill=fill_with("next"), details=DETAILS)
    assert siblings(bundle) == []
    assert (bundle / "mark").read_text() == "next"


def test_a_live_writer_is_left_alone(bundle: Path) -> None:
    with stuck_writer(bundle):
        before = siblings(bundle)
        write_bundle(bundle, fill=fill_with("other"), details=DETAILS)
        assert siblings(bundle) == before
    assert verify_bundle(bundle) == []


def test_a_writer_killed_between_its_two_renames_loses_nothing(bundle: Path) -> None:
    aside = bundle.with_name(".bundle.writing-0123456789abcdef.old")
    bundle.rename(aside)
    aside.with_name(".bundle.writing-0123456789abcdef").mkdir()
    aside.with_name(".bundle.writing-0123456789abcdef.lock").touch()

    def look(folder: Path) -> None:
        fill(folder)
        assert verify_bundle(bundle) == []

    write_bundle(bundle, fill=look, details=DETAILS)
    assert siblings(bundle) == []


def test_two_writers_that_swap_at_once_both_succeed_and_the_last_wins(bundle: Path) -> None:
    def overtake(folder: Path) -> None:
        fill(folder)
        write_bundle(bundle, fill=fill_with("inner"), details=DETAILS)

    def outer(folder: Path) -> None:
        overtake(folder)
        (folder / "mark").write_text("outer")

    manifest = write_bundle(bundle, fill=outer, details=DETAILS)
    assert open_bundle(bundle).manifest == manifest
    assert (bundle / "mark").read_text() == "outer"
    assert siblings(bundle) == []


def test_a_claimed_name_is_locked_before_anything_of_it_exists(tmp_path: Path) -> None:
    def look(folder: Path) -> None:
        fill(folder)
        with folder.with_name(f"{folder.name}.lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    write_bundle(tmp_path / "bundle", fill=look, details=DETAILS)


def test_a_manifest_is_immutable(bundle: Path) -> None:
    manifest: Manifest = open_bundle(bundle).manifest
    with pytest.raises(AttributeError):
        manifest.bundle_version = "x"  # type: ignore[misc]
