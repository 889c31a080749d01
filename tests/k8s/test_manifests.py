"""The manifests are valid, say what the service needs, and each overlay is what its name says."""

import json
import re
import shutil
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from service.cli import app as service_commands
from service.settings import Settings
from tests.k8s.custom_resources import is_custom, prometheus_rule, validate
from tests.k8s.render import K8S, OVERLAYS, ROOT, Manifest, container, documents, identity, merge, one, pod, render

VERSION = "1.37"
TRAINING = K8S / "training"
MONITORING = K8S / "components/monitoring"
FOLDERS = OVERLAYS | {"training": TRAINING}

every = pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
every_service = pytest.mark.parametrize("folder", OVERLAYS.values(), ids=OVERLAYS)


def pods(folder: Path) -> list[Manifest]:
    """The pods of everything that runs one."""
    specs = [m["spec"] for m in render(folder) if m["kind"] in ("Deployment", "Job")]
    specs += [m["spec"]["jobTemplate"]["spec"] for m in render(folder) if m["kind"] == "CronJob"]
    return [spec["template"]["spec"] for spec in specs]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def sorted_manifests(manifests: list[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=identity)


@every
def test_every_manifest_fits_its_schema(folder: Path) -> None:
    manifests = render(folder)
    assert manifests
    for manifest in manifests:
        if is_custom(manifest):
            validate(manifest)
        else:
            kubernetes_validate.validate(manifest, VERSION, strict=True)


@every
def test_no_two_manifests_have_one_name(folder: Path) -> None:
    names = [identity(manifest) for manifest in render(folder)]
    assert len(names) == len(set(names))


def test_wrong_manifests_do_not_fit_their_schemas() -> None:
    broken = merge(one(OVERLAYS["cpu"], "Deployment"), {"spec": {"replica": 1}})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)
    overlays = {"ServiceMonitor": "postgres", "ScaledObject": "postgres-keda"}
    for kind, name in overlays.items():
        broken = merge(one(OVERLAYS[name], kind), {"spec": {"endpoint": []}})
        with pytest.raises(jsonschema.ValidationError):
            validate(broken)
    rule = one(OVERLAYS["postgres"], "PrometheusRule", "sidera-recorded")
    rule["spec"]["groups"][0]["rules"][0]["alert"] = "both"
    with pytest.raises(jsonschema.ValidationError):
        validate(rule)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@every
def test_kubectl_renders_the_same(folder: Path) -> None:
    made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if "invalid Kustomization" in made.stderr and "components" in made.stderr:
        pytest.skip("this kubectl is older than components (1.21)")
    assert made.returncode == 0, made.stderr
    assert sorted_manifests(list(yaml.safe_load_all(made.stdout))) == sorted_manifests(render(folder))


def test_every_file_is_used_and_every_component_is_in_an_overlay() -> None:
    used: set[Path] = set()
    for path in K8S.rglob("kustomization.yaml"):
        (kustomization,) = documents(path)
        used.add(path)
        patches = [entry["path"] for entry in kustomization.get("patches", [])]
        for name in chain(kustomization.get("resources", []), kustomization.get("components", []), patches):
            named = (path.parent / name).resolve()
            used.add(named / "kustomization.yaml" if named.is_dir() else named)
    assert {path for path in K8S.rglob("*") if path.is_file()} == used


@every_service
def test_every_setting_is_a_setting_of_the_service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: dict[str, str] = one(folder, "ConfigMap")["data"]
    env = {entry["name"]: entry.get("value", "x") for entry in container(folder).get("env", [])}
    ours = {name: value for name, value in (data | env).items() if name.startswith("SIDERA_")}
    assert set(ours) <= {f"SIDERA_{name.upper()}" for name in Settings.model_fields}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    ports = {port["name"]: port["containerPort"] for port in container(folder)["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    assert (settings.host, settings.admin_host, settings.probes_on) == ("0.0.0.0", "0.0.0.0", "admin")
    assert settings.environment == "production"
    mounts = {mount["mountPath"] for mount in container(folder)["volumeMounts"]}
    assert str(settings.bundle_store) in mounts
    assert settings.api_keys_file is not None
    assert str(settings.api_keys_file.parent) in mounts
    assert "SIDERA_DATABASE" in ours


@every_service
def test_the_pod_has_time_to_finish_what_runs(folder: Path) -> None:
    grace = float(one(folder, "ConfigMap")["data"]["SIDERA_GRACE_SECONDS"])
    _, seconds = container(folder)["lifecycle"]["preStop"]["exec"]["command"]
    assert pod(folder)["terminationGracePeriodSeconds"] >= grace + float(seconds) + 5


@every_service
def test_the_pod_gets_the_config_map_and_no_service_links(folder: Path) -> None:
    references = [source["configMapRef"]["name"] for source in container(folder)["envFrom"]]
    assert references == [one(folder, "ConfigMap")["metadata"]["name"]]
    assert all(spec["enableServiceLinks"] is False for spec in pods(folder))


@every_service
def test_the_probes_ask_the_health_routes(folder: Path) -> None:
    probes = {
        name: (container(folder)[name]["httpGet"]["path"], container(folder)[name]["httpGet"]["port"])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert probes == {
        "startupProbe": ("/health/live", "admin"),
        "livenessProbe": ("/health/live", "admin"),
        "readinessProbe": ("/health/ready", "admin"),
    }


@every
def test_no_container_may_do_more_than_it_needs(folder: Path) -> None:
    for spec in pods(folder):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for each in containers(spec):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(each["resources"]["requests"])
            assert {"cpu", "memory"} <= set(each["resources"]["limits"])


@every
def test_every_volume_is_mounted_and_every_claim_exists(folder: Path) -> None:
    bundles = {"sidera-bundles"}  # of the service; training writes it
    claims = {m["metadata"]["name"] for m in render(folder) if m["kind"] == "PersistentVolumeClaim"} | bundles
    for spec in pods(folder):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for each in containers(spec) for mount in each["volumeMounts"]} == set(volumes)
        claimed = [v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v]
        assert set(claimed) <= claims
        assert all("emptyDir" in volumes["tmp"] for _ in claimed)


@every_service
def test_bundles_are_read_only_and_verified_before_the_service_starts(folder: Path) -> None:
    (first,) = pod(folder)["initContainers"]
    (volume,) = [volume for volume in pod(folder)["volumes"] if volume["name"] == "bundles"]
    assert volume["persistentVolumeClaim"]["readOnly"] is True
    for each in (first, container(folder)):
        (mount,) = [mount for mount in each["volumeMounts"] if mount["name"] == "bundles"]
        assert mount == {"name": "bundles", "mountPath": "/bundles", "readOnly": True}
        assert each["image"] == container(folder)["image"]
    assert "sidera bundle verify" in first["command"][-1]


@pytest.mark.parametrize(("whole", "code"), [({"a": 1, "b": 0}, 0), ({"a": 1}, 1), ({}, 1)])
def test_a_pod_starts_when_one_bundle_at_least_is_whole(tmp_path: Path, whole: dict[str, int], code: int) -> None:
    store, programs = tmp_path / "bundles", tmp_path / "bin"
    programs.mkdir()
    store.mkdir()
    for name, failure in whole.items():
        (store / name).mkdir()
        (store / name / "exit").write_text(str(failure))
    (programs / "sidera").write_text('#!/bin/sh\nexit "$(cat "$3/exit")"\n')
    (programs / "sidera").chmod(0o755)
    *shell, script = pod(OVERLAYS["cpu"])["initContainers"][0]["command"]
    script = script.replace("/bundles", str(store))
    done = subprocess.run([*shell, script], env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == code
    assert ("no whole bundle" in done.stderr) == bool(code)


def test_secrets_are_named_and_never_written() -> None:
    for path in K8S.rglob("*.yaml"):
        assert all(document.get("kind") != "Secret" for document in documents(path))
    for folder in OVERLAYS.values():
        assert [v["secret"]["secretName"] for v in pod(folder)["volumes"] if "secret" in v] == ["sidera-keys"]
    for name in ("postgres", "postgres-keda"):
        (database,) = [entry for entry in container(OVERLAYS[name])["env"] if entry["name"] == "SIDERA_DATABASE"]
        assert database["valueFrom"]["secretKeyRef"] == {"name": "sidera-database", "key": "url"}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_one_process_owns_a_sqlite_file_even_during_a_roll_out(name: str) -> None:
    spec = one(OVERLAYS[name], "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    database = Path(one(OVERLAYS[name], "ConfigMap")["data"]["SIDERA_DATABASE"])
    assert str(database.parent) in {mount["mountPath"] for mount in container(OVERLAYS[name])["volumeMounts"]}


@pytest.mark.parametrize(("name", "kind"), [("postgres", "HorizontalPodAutoscaler"), ("postgres-keda", "ScaledObject")])
def test_replicas_roll_without_losing_capacity_and_scale_on_queue_time(name: str, kind: str) -> None:
    folder = OVERLAYS[name]
    spec = one(folder, "Deployment")["spec"]
    assert "replicas" not in spec  # the autoscaler's
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    scaler = one(folder, kind)["spec"]
    assert scaler["scaleTargetRef"]["name"] == "sidera"
    (recorded,) = one(folder, "PrometheusRule", "sidera-recorded")["spec"]["groups"][0]["rules"]
    assert recorded["record"] in json.dumps(scaler)
    scalers = {m["kind"] for m in render(folder)} & {"HorizontalPodAutoscaler", "ScaledObject"}
    assert scalers == {kind}
    assert {entry["topologyKey"] for entry in pod(folder)["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }


def selected(selector: Any, labels: Any) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


@every_service
def test_everything_that_selects_finds_the_pod_and_its_ports(folder: Path) -> None:
    template = one(folder, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    ports = {port["name"] for port in container(folder)["ports"]}
    for manifest in render(folder):
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            assert spec["selector"].items() <= labels.items()
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif manifest["kind"] in ("PodDisruptionBudget", "Deployment"):
            assert selected(spec["selector"], labels)
        elif manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"] != "sidera-fold":
            assert selected(spec["podSelector"], labels)
            named = [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
            assert set(named) <= ports
        elif manifest["kind"] == "ServiceMonitor":
            (service,) = [
                m
                for m in render(folder)
                if m["kind"] == "Service" and selected(spec["selector"], m["metadata"]["labels"])
            ]
            assert {entry["port"] for entry in spec["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    assert all(selected(entry["labelSelector"], labels) for entry in pod(folder)["topologySpreadConstraints"])


def test_the_admin_port_is_reached_by_operators_and_prometheus_alone() -> None:
    rules = one(OVERLAYS["cpu"], "NetworkPolicy")["spec"]["ingress"]
    (admin,) = [rule for rule in rules if rule["ports"][0]["port"] == "admin"]
    assert len(admin["from"]) == 2
    assert all(next(iter(source.values()))["matchLabels"] for source in admin["from"])
    (public,) = [m for m in render(OVERLAYS["cpu"]) if identity(m) == ("v1", "Service", "sidera")]
    assert [port["targetPort"] for port in public["spec"]["ports"]] == ["http"]


def test_the_gpu_overlay_asks_for_one_gpu_and_changes_nothing_that_it_does_not_name() -> None:
    cpu, gpu = OVERLAYS["cpu"], OVERLAYS["gpu"]
    for part in ("limits", "requests"):
        assert container(gpu)["resources"][part]["nvidia.com/gpu"] == "1"
        assert container(gpu)["resources"][part]["cpu"] == container(cpu)["resources"][part]["cpu"]
    assert one(gpu, "ConfigMap")["data"]["SIDERA_DEVICE"] == "cuda"
    assert "nvidia.com/gpu" not in str(render(cpu))
    assert {key for key in container(gpu) if container(gpu)[key] != container(cpu)[key]} == {"image", "resources"}
    changed = {key for key in pod(gpu) if pod(gpu)[key] != pod(cpu).get(key)}
    assert changed == {"containers", "initContainers", "tolerations"}


def test_the_alerts_are_those_of_the_rules_file() -> None:
    rules = (ROOT / "observability/alerts.yaml").read_text()
    assert one(OVERLAYS["postgres"], "PrometheusRule", "sidera-alerts") == prometheus_rule(rules), (
        "make it anew with: python -m tests.k8s.custom_resources"
    )


def test_recorded_rules_read_metrics_that_the_service_has() -> None:
    (rule,) = one(OVERLAYS["postgres"], "PrometheusRule", "sidera-recorded")["spec"]["groups"][0]["rules"]
    source = "".join(path.read_text() for path in (K8S.parent / "service").rglob("*.py"))
    for metric in re.findall(r"sidera_\w+?(?=_bucket)", rule["expr"]):
        assert f'"{metric}"' in source


def test_training_publishes_a_verified_bundle_in_one_step_under_a_name_that_the_service_sees(tmp_path: Path) -> None:
    runs, store, programs = tmp_path / "runs", tmp_path / "bundles", tmp_path / "bin"
    for folder in (runs / "current/bundle", store / ".incoming/left-over", programs):
        folder.mkdir(parents=True)
    (runs / "current/bundle/manifest.json").write_text("{}")
    (programs / "sidera").write_text('#!/bin/sh\ntest -f "$3/manifest.json"\n')
    (programs / "sidera").chmod(0o755)
    *shell, script = pods(TRAINING)[0]["containers"][0]["command"]
    script = script.replace("/runs/", f"{runs}/").replace("/bundles/", f"{store}/")
    subprocess.run([*shell, script], env={"PATH": f"{programs}:/usr/bin:/bin"}, check=True, capture_output=True)
    (published,) = store.iterdir()
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", published.name)
    assert [path.name for path in published.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("name", ["postgres", "postgres-keda"])
def test_live_items_are_folded_into_a_new_bundle_that_every_replica_swaps_in(name: str) -> None:
    folder = OVERLAYS[name]
    job = one(folder, "CronJob", "sidera-fold")["spec"]
    template = job["jobTemplate"]["spec"]["template"]
    (fold,) = template["spec"]["containers"]
    env = {entry["name"]: entry for entry in fold["env"]}
    assert job["concurrencyPolicy"] == "Forbid"
    assert env["SIDERA_DATABASE"] == next(e for e in container(folder)["env"] if e["name"] == "SIDERA_DATABASE")
    assert fold["image"] == container(folder)["image"]
    settings = one(folder, "ConfigMap")["data"]
    assert env["SIDERA_BUNDLE_STORE"]["value"] == settings["SIDERA_BUNDLE_STORE"]
    assert {"name": "bundles", "mountPath": "/bundles"} in fold["volumeMounts"]
    assert float(settings["SIDERA_WATCH_BUNDLES"]) > 0
    policy = one(folder, "NetworkPolicy", "sidera-fold")["spec"]
    assert selected(policy["podSelector"], template["metadata"]["labels"])
    assert "ingress" not in policy
    commands: Any = get_command(service_commands)
    known = {option for parameter in commands.commands["fold"].params for option in parameter.opts}
    assert fold["command"][:2] == ["sidera", "fold"]
    assert {word for word in fold["command"] if word.startswith("--")} <= known


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_no_second_process_opens_a_sqlite_file(name: str) -> None:
    assert not [m for m in render(OVERLAYS[name]) if m["kind"] == "CronJob"]


def test_the_config_of_the_training_job_is_one_that_training_takes(tmp_path: Path) -> None:
    from training.config import load_config

    (tmp_path / "train.yaml").write_text(one(TRAINING, "ConfigMap", "sidera-training")["data"]["train.yaml"])
    config = load_config(tmp_path / "train.yaml")
    mounts = {mount["mountPath"] for mount in pods(TRAINING)[0]["initContainers"][0]["volumeMounts"]}
    assert config.data in mounts
    assert str(Path(config.out).parents[1]) in mounts


def test_a_patch_merges_keyed_entries_replaces_other_lists_and_removes_nulls() -> None:
    base = {"a": [{"name": "x", "v": 1}, {"name": "y"}], "b": [1, 2], "c": {"d": 1, "f": 2}}
    patch = {"a": [{"name": "x", "w": 2}, {"name": "z"}], "b": [3], "c": {"e": 2, "f": None}}
    assert merge(base, patch) == {
        "a": [{"name": "z"}, {"name": "x", "v": 1, "w": 2}, {"name": "y"}],
        "b": [3],
        "c": {"d": 1, "e": 2},
    }
