"""The commands ``serve`` and ``openapi``."""

import functools
import gc
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.app import create_app
from service.serving import Serving, listen
from sidera.bundle_writing import write_bundle
from sidera.cli import main
from sidera.manifest import BundleDetails, DomainEntry
from tests.service.fakes import FakeModel, settings

ROOT = Path(__file__).parents[2]


class Ended:
    """How a command ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


Sidera = Callable[..., Ended]


@pytest.fixture
def sidera(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sidera:
    """Run a command in this process, with these settings alone."""
    for name in [name for name in os.environ if name.startswith("SIDERA_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def hollow_bundle(tmp_path: Path) -> Path:
    """A bundle whose manifest is right, and that holds nothing to serve."""
    details = BundleDetails(
        created="2026-01-01T00:00:00+00:00",
        config={},
        lineage={},
        metrics={},
        codebook_sizes=(4, 4),
        domains={"drama": DomainEntry(token=0)},
        parts={"language_model": {"base_vocabulary": 0, "gammas": {}, "max_history": 5, "beam_width": 5}},
    )

    def fill(folder: Path) -> None:
        (folder / "report").mkdir()
        (folder / "report" / "metrics.json").write_text("{}")

    path = tmp_path / "bundle"
    write_bundle(path, fill=fill, details=details)
    return path


def test_a_folder_that_is_no_bundle_ends_with_one_sentence(sidera: Sidera, tmp_path: Path) -> None:
    ended = sidera("serve", str(tmp_path))
    assert ended.code == 1
    assert "is not a bundle" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_bundle_that_fails_to_load_ends_the_process_with_one_sentence(hollow_bundle: Path, tmp_path: Path) -> None:
    arguments = ["serve", str(hollow_bundle), "--port", "0", "--database", str(tmp_path / "items.db")]
    ended = subprocess.run(
        [sys.executable, "-c", f"from sidera.cli import main; main({arguments!r})"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "Error: the bundle cannot be served: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout.startswith("Loading ")
    assert "Sidera serves at" not in ended.stdout


def test_a_port_that_is_taken_ends_with_what_to_set(sidera: Sidera, hollow_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = sidera("serve", str(hollow_bundle), "--port", str(taken.getsockname()[1]))
    assert ended.code == 1
    assert "choose another with --host or --port" in ended.stderr


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SIDERA_PORT": "tcp://10.0.0.1:80", "SIDERA_BUNDLE": "b"}, "enableServiceLinks: false"),
        ({"SIDERA_MAX_QUEUE": "none", "SIDERA_BUNDLE": "b"}, "SIDERA_MAX_QUEUE: "),
        ({}, "set one of SIDERA_BUNDLE "),
        ({"SIDERA_BUNDLE": "b", "SIDERA_BUNDLE_STORE": "s"}, "set one of SIDERA_BUNDLE "),
        ({"SIDERA_BUNDLE_STORE": "no-such-folder"}, "the bundle store no-such-folder cannot be read"),
        ({"SIDERA_BUNDLE": "b", "SIDERA_WATCH_BUNDLES": "5"}, "SIDERA_WATCH_BUNDLES looks into SIDERA_BUNDLE_STORE"),
        ({"SIDERA_BUNDLE": "b", "SIDERA_PROBES_ON": "admin"}, "set SIDERA_ADMIN_PORT too"),
        ({"SIDERA_BUNDLE": "b", "SIDERA_SHUTDOWN_DELAY_SECONDS": "25"}, "leaves nothing of SIDERA_GRACE_SECONDS"),
    ],
)
def test_a_bad_setting_ends_with_its_name(sidera: Sidera, environment: dict[str, str], sentence: str) -> None:
    ended = sidera("serve", **environment)
    assert ended.code == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_openapi_writes_the_committed_description(sidera: Sidera, tmp_path: Path) -> None:
    committed = (ROOT / "openapi.yaml").read_text(encoding="utf-8")
    assert sidera("openapi").stdout == committed
    assert sidera("openapi", "--out", str(tmp_path / "o.yaml")).code == 0
    assert (tmp_path / "o.yaml").read_text(encoding="utf-8") == committed


def test_the_admin_port_has_a_description_of_its_own(sidera: Sidera) -> None:
    described = sidera("openapi", "--admin").stdout
    assert "/admin/bundles/activate" in described
    assert "/recommend" not in described


def test_a_description_that_cannot_be_written_is_one_sentence(sidera: Sidera, tmp_path: Path) -> None:
    ended = sidera("openapi", "--out", str(tmp_path / "missing" / "o.yaml"))
    assert ended.code == 2
    assert "cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_a_server_prints_its_address_and_a_line_to_try_once_it_is_ready(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    create = functools.partial(create_app, load=lambda _: FakeModel())
    chosen = settings(port=0, database=str(tmp_path / "items.db"))
    printed = ""
    with listen("127.0.0.1", 0, "") as listener:
        serving = Serving(chosen, listener, create=create)
        thread = threading.Thread(target=serving.run)
        thread.start()
        begun = time.monotonic()
        while "curl" not in printed:
            assert time.monotonic() - begun < 20
            printed += capsys.readouterr().out
            time.sleep(0.01)
        port = listener.getsockname()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
        serving.stop()
        thread.join(20)
    assert f"Sidera serves at http://127.0.0.1:{port}" in printed
    assert f"curl -s http://127.0.0.1:{port}/recommend" in printed
    assert '"domain": "comedy"' in printed
    assert serving.failure is None


def test_an_answer_never_waits_for_the_clients_acknowledgement() -> None:
    with listen("127.0.0.1", 0, "") as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
        assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()
        served.close()
