"""A real Prometheus that scrapes one address of this machine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

needs_prometheus = pytest.mark.skipif(
    None in (shutil.which("prometheus"), shutil.which("promtool")) and "CI" not in os.environ,
    reason="needs Prometheus: apt-get install prometheus",
)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]

    def value(self, expression: str) -> float | None:
        """The value of an expression that has one sample, or None."""
        samples = self.get("query", query=expression)["result"]
        return float(samples[0]["value"][1]) if samples else None

    def wait_for(self, expression: str, value: float) -> None:
        """Wait until an expression has a value."""
        begun = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                if self.value(expression) == value:
                    return
            assert time.monotonic() - begun < 60, f"{expression} is never {value}"
            time.sleep(0.2)


@contextlib.contextmanager
def scraping(port: int, rules: Path, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus on a service."""
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "sidera", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        prometheus = Prometheus(own)
        prometheus.wait_for('up{job="sidera"}', 1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
