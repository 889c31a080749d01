"""The Dockerfile's steps are run for real, and what they make serves a bundle as it is deployed."""

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import free_port, stop
from tests.image import Access, Image, build, command, missing
from tests.test_dockerfile import IGNORED, ROOT, stages

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    problem = missing()
    if problem is not None:
        pytest.skip(problem)
    work = tmp_path_factory.mktemp("image")
    index = Access.here().other_index
    assert index is not None
    yield build(stages(), ROOT, IGNORED, work, {"TORCH": "cpu", "TORCH_INDEX": index})
    shutil.rmtree(work)


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_the_image_serves_a_bundle_as_a_numbered_user_on_a_read_only_file_system(
    image: Image, tiny_bundle: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    data, port = tmp_path / "data", free_port()
    data.mkdir()
    shutil.chown(data, *map(int, image.user.split(":")))
    shutil.copytree(tiny_bundle, image.root / "bundle", dirs_exist_ok=True)
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    subprocess.run(["chmod", "-R", "a+rX", str(encoder), str(image.root / "bundle")], check=True)
    settings = {"SIDERA_HOST": "127.0.0.1", "SIDERA_PORT": str(port)}
    # The bundle names the encoder by its folder.
    volumes = {data: "/data", encoder: str(tiny_encoder)}
    argv = command(image, image.entrypoint, settings, read_only=True, volumes=volumes)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        wait_until_ready(process, port, tmp_path / "log")
        owner = Path(f"/proc/{process.pid}").stat()
        assert f"{owner.st_uid}:{owner.st_gid}" == image.user
        status, answer = ask(port, "POST", "/recommend", {"domain": "books", "num_results": 3})
        assert (status, len(answer["items"])) == (200, 3)
        item = {"item_id": "new", "title": "blue clock books"}
        status, answer = ask(port, "POST", "/tokenize", {"domain": "books", "items": [item], "register": True})
        assert (status, answer["items"][0]["registered"]) == (200, True)
        assert (data / "sidera-items.db").stat().st_uid == owner.st_uid
    finally:
        stop(process, patience=30)
    assert process.returncode == 0, "it did not end by itself when it was told to"


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends and process.poll() is None:
        try:
            if ask(port, "GET", "/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"it is not ready; it said: {log.read_text()[-3000:]}")


def test_the_image_verifies_bundles_and_knows_every_command(image: Image, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, image.root / "bundle", dirs_exist_ok=True)
    argv = command(image, ["sidera", "bundle", "verify", "/bundle"], read_only=True)
    assert "is whole" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    argv = command(image, ["sidera", "serve", "--help"], read_only=True)
    assert "BUNDLE" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    argv = command(image, ["python", "-c", "import psycopg, alembic, opentelemetry.sdk"], read_only=True)
    subprocess.run(argv, check=True)
