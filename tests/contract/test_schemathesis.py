"""Schemathesis over the committed description, against a service on a stand-in for a bundle.

Takes ten minutes and more, nearly all of them to make up the cases: ``pytest -s -m long`` of this file says how many
there were. ``CASES`` is how many are needed, which ``EXAMPLES`` an operation and phase give: about 1,200 come from the
boundaries that the description names, and 9 to 18 more with every example.
"""

import http.client
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = 5000
EXAMPLES = 400


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where the service listens."""
    command = [sys.executable, "-m", "tests.service.served", str(tmp_path / "items.db"), "0", "environment=development"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            listening = int(process.stdout.readline().split()[0])
            begun = time.monotonic()
            while not is_ready(listening):
                assert time.monotonic() - begun < 60
                time.sleep(0.1)
            yield listening
            assert is_ready(listening), "the service outlives all of it"
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except ConnectionError:
        return False
    finally:
        connection.close()


@pytest.mark.long
def test_every_case_that_schemathesis_makes_of_the_description_is_answered_as_described(port: int) -> None:
    program = str(Path(sys.executable).with_name("st"))
    command = [program, "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run", "openapi.yaml"]
    options = ["--url", f"http://127.0.0.1:{port}", "--checks", "all", "--max-examples", str(EXAMPLES)]
    quiet = ["--no-color", "--suppress-health-check", "all", "--continue-on-failure"]
    done = subprocess.run([*command, *options, *quiet], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]
    made = re.search(r"(\d+) generated", done.stdout)
    assert made is not None, done.stdout[-2000:]
    sys.stderr.write(f"{made[1]} cases\n")
    assert int(made[1]) >= CASES
