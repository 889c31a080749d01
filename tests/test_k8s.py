"""The manifests are valid, say what the service needs, and the overlay changes what it says it changes.

There is no kustomize among the project's dependencies, so ``render`` restates the part of it that the manifests
use: resources, and strategic-merge patches in which lists of named objects merge by name and all others are replaced.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[1]
BASE = ROOT / "k8s/base"
GPU = ROOT / "k8s/overlays/gpu"
VERSION = "1.37"

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def merge(base: Any, patch: Any) -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merge(base.get(key), value) for key, value in patch.items()}
    if is_named(base) and is_named(patch):
        patches = {entry["name"]: entry for entry in patch}
        merged = [merge(entry, patches.pop(entry["name"], {})) for entry in base]
        return merged + list(patches.values())
    return patch


def is_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) and "name" in entry for entry in value)


def render(folder: Path) -> list[Manifest]:
    (kustomization,) = documents(folder / "kustomization.yaml")
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "patches"}
    rendered: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = (folder / resource).resolve()
        rendered += render(path) if path.is_dir() else documents(path)
    for entry in kustomization.get("patches", []):
        assert set(entry) == {"path"}
        (patch,) = documents(folder / entry["path"])
        targets = [index for index, manifest in enumerate(rendered) if identity(manifest) == identity(patch)]
        assert len(targets) == 1, f"{entry['path']} patches nothing"
        rendered[targets[0]] = merge(rendered[targets[0]], patch)
    return rendered


def identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def one(folder: Path, kind: str, name: str = "sidera") -> Manifest:
    (found,) = [m for m in render(folder) if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pod(folder: Path) -> Manifest:
    spec: Manifest = one(folder, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(folder: Path) -> Manifest:
    (only,) = pod(folder)["containers"]
    assert isinstance(only, dict)
    return only


both = pytest.mark.parametrize("folder", [BASE, GPU], ids=["base", "gpu"])


@both
def test_every_manifest_fits_the_schema_of_kubernetes(folder: Path) -> None:
    manifests = render(folder)
    assert sorted(manifest["kind"] for manifest in manifests) == [
        "ConfigMap",
        "Deployment",
        "PersistentVolumeClaim",
        "PersistentVolumeClaim",
        "Service",
    ]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_wrong_manifest_does_not_fit_the_schema() -> None:
    broken = merge(one(BASE, "Deployment"), {"spec": {"replica": 1}})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@both
def test_every_manifest_in_the_folder_is_used(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    named = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))}
    assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} == named - {"../../base"}


@both
def test_every_setting_in_the_config_map_is_a_setting_of_the_service(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: dict[str, str] = one(folder, "ConfigMap")["data"]
    names = {f"SIDERA_{name.upper()}" for name in Settings.model_fields}
    assert set(data) <= names
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = Settings(bundle=Path("/bundle"))
    assert settings.host == "0.0.0.0"
    assert settings.port == container(folder)["ports"][0]["containerPort"] == 8000


@both
def test_the_pod_gets_the_config_map_and_no_service_links(folder: Path) -> None:
    references = [source["configMapRef"]["name"] for source in container(folder)["envFrom"] if "configMapRef" in source]
    assert references == [one(folder, "ConfigMap")["metadata"]["name"]]
    assert pod(folder)["enableServiceLinks"] is False


@both
def test_the_probes_ask_the_health_routes(folder: Path) -> None:
    probes = {
        name: (container(folder)[name]["httpGet"]["path"], container(folder)[name]["httpGet"]["port"])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert probes == {
        "startupProbe": ("/health/live", "http"),
        "livenessProbe": ("/health/live", "http"),
        "readinessProbe": ("/health/ready", "http"),
    }
    assert {port["name"]: port["containerPort"] for port in container(folder)["ports"]} == {"http": 8000}


@both
def test_the_pod_may_do_no_more_than_it_needs(folder: Path) -> None:
    assert pod(folder)["securityContext"]["runAsNonRoot"] is True
    assert pod(folder)["securityContext"]["runAsUser"] > 0
    assert pod(folder)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(folder)["automountServiceAccountToken"] is False
    assert container(folder)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@both
def test_the_bundle_is_read_only_and_what_is_written_has_a_volume(folder: Path) -> None:
    mounts = {mount["name"]: mount for mount in container(folder)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(folder)["volumes"]}
    assert set(mounts) == set(volumes)
    assert mounts["bundle"] == {"name": "bundle", "mountPath": "/bundle", "readOnly": True}
    assert volumes["bundle"]["persistentVolumeClaim"] == {"claimName": "sidera-bundle", "readOnly": True}
    assert mounts["tmp"]["mountPath"] == "/tmp"
    assert "emptyDir" in volumes["tmp"]
    claims = {m["metadata"]["name"] for m in render(folder) if m["kind"] == "PersistentVolumeClaim"}
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "emptyDir" not in v} == claims
    database = one(folder, "ConfigMap")["data"]["SIDERA_DATABASE"]
    assert Path(database).parent == Path(mounts["data"]["mountPath"])


@both
def test_one_process_owns_the_database_even_during_a_roll_out(folder: Path) -> None:
    spec = one(folder, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


@both
def test_requests_and_limits_are_set(folder: Path) -> None:
    resources = container(folder)["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert {"cpu", "memory"} <= set(resources["limits"])


@both
def test_the_service_finds_the_pod(folder: Path) -> None:
    service, template = one(folder, "Service")["spec"], one(folder, "Deployment")["spec"]["template"]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    assert [port["targetPort"] for port in service["ports"]] == ["http"]


def test_the_gpu_overlay_asks_for_one_gpu_and_changes_nothing_that_it_does_not_name() -> None:
    limits = container(GPU)["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert container(GPU)["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert limits["cpu"] == container(BASE)["resources"]["limits"]["cpu"]
    assert one(GPU, "ConfigMap")["data"]["SIDERA_DEVICE"] == "cuda"
    assert "nvidia.com/gpu" not in str(render(BASE))
    changed = {key for key in container(GPU) if container(GPU)[key] != container(BASE)[key]}
    assert changed == {"image", "resources"}
    assert {key for key in pod(GPU) if pod(GPU)[key] != pod(BASE).get(key)} == {"containers", "tolerations"}


def test_a_patch_merges_named_entries_and_replaces_other_lists() -> None:
    base = {"a": [{"name": "x", "v": 1}, {"name": "y"}], "b": [1, 2], "c": {"d": 1}}
    patch = {"a": [{"name": "x", "w": 2}, {"name": "z"}], "b": [3], "c": {"e": 2}}
    assert merge(base, patch) == {
        "a": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}, {"name": "z"}],
        "b": [3],
        "c": {"d": 1, "e": 2},
    }
