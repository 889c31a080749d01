"""The dashboard and the alerts, against a real Prometheus that scrapes a running service, and against the handbook."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from tests.observability.prometheus import Prometheus, needs_prometheus, scraping
from tests.service.fakes import FakeModel
from tests.service.test_uvicorn import listening, post

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "observability"
ALERTS: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
HANDBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
METRIC = re.compile(r"\b(?:sidera|process)_[a-z0-9_]+")


def families() -> set[str]:
    """The names of all metrics, without the suffixes of their samples."""
    read = {family.name for family in text_string_to_metric_families(Metrics().render().decode())}
    return {name for name in read if not name.endswith("_created")}


def expressions() -> list[str]:
    """Those of the dashboard with its variables filled in, and those of the rules."""
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    filled = [
        query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*") for query in queries
    ]
    assert not [query for query in filled if "$" in query]
    return filled + [rule["expr"] for rule in RULES]


def family_of(metric: str) -> str:
    return re.sub(r"_(total|bucket|sum|count)$", "", metric)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with listening(folder, FakeModel()) as port, scraping(port, FOLDER / "alerts.yaml", folder) as running:
        assert post(port, "/recommend", {"domain": "drama"})[0] == 200
        assert post(port, "/tokenize", {"domain": "drama", "items": [{"item_id": "a", "title": "T"}]})[0] == 200
        running.wait_for('sidera_requests_total{route="/tokenize"}', 1)
        yield running


@needs_prometheus
def test_a_running_service_is_scraped(prometheus: Prometheus) -> None:
    assert prometheus.value('up{job="sidera"}') == 1
    assert prometheus.value('sidera_requests_total{route="/recommend", status="200"}') == 1
    assert prometheus.value("sidera_catalog_items{domain='drama'}") == 6
    assert prometheus.value("sidera_invalid_items_total") == 0
    assert prometheus.value("sum(sidera_queue_seconds_count{engine='recommend'})") >= 1  # type: ignore[operator]


@needs_prometheus
def test_every_metric_of_dashboard_and_rules_is_one_that_prometheus_got_from_the_service(
    prometheus: Prometheus,
) -> None:
    known = {entry["metric"] for entry in prometheus.get("targets/metadata")}
    known = {family_of(name) for name in known}
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(named) > 25
    assert {name for name in named if family_of(name) not in known} == set()


@needs_prometheus
def test_prometheus_understands_every_expression_and_evaluates_every_rule(prometheus: Prometheus) -> None:
    for expression in expressions():
        prometheus.get("query", query=expression)
    begun = time.monotonic()
    while True:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        if all(rule["health"] == "ok" for rule in rules):
            break
        assert time.monotonic() - begun < 60, [rule["lastError"] for rule in rules if rule["health"] != "ok"]
        time.sleep(0.2)
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in RULES}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


@needs_prometheus
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]])
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(command: list[str]) -> None:
    result = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
def test_promtool_accepts_the_metrics_as_the_service_writes_them() -> None:
    text = Metrics().render()
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    # It reads the classic format alone and has opinions on names; what it cannot parse ends with 1.
    assert result.returncode in (0, 3), result.stderr


def test_every_alert_fires_in_the_rules_test() -> None:
    tested = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"][-1]["promql_expr_test"][0]
    fired = {re.findall(r'"(.*)"', sample["labels"])[0] for sample in tested["exp_samples"]}
    assert fired == {rule["alert"] for rule in RULES}


def test_every_alert_has_a_section_in_the_handbook_and_leads_to_it() -> None:
    headings = set(re.findall(r"^### (Sidera\w+)$", HANDBOOK, flags=re.MULTILINE))
    assert headings == {rule["alert"] for rule in RULES}
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_handbook_explains_every_metric_and_no_other() -> None:
    section = HANDBOOK.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    explained = {family_of(name) for name in re.findall(r"^\| `(sidera_[a-z0-9_]+)`", section, flags=re.MULTILINE)}
    assert explained == {name for name in families() if name.startswith("sidera_")}


def test_kubernetes_gets_the_same_alerts() -> None:
    rule = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "alerts.yaml").read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"]["groups"] == ALERTS["groups"]


def test_the_panels_of_the_dashboard_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
