"""What ``kubectl kustomize`` makes of a folder, for machines without kubectl.

It restates the part of kustomize that the manifests use: resources, components, and strategic-merge patches in which
lists of named objects merge by name (mounts by path), null removes, and all other lists are replaced. A test compares
it with kubectl where that is installed.
"""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = {path.name: path for path in sorted((K8S / "overlays").iterdir())}

Manifest = dict[str, Any]
_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort"}


def documents(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization."""
    return _rendered(folder, [])


def identity(manifest: Manifest) -> tuple[str, str, str]:
    """Version, kind and name."""
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def one(folder: Path, kind: str, name: str = "sidera") -> Manifest:
    """The only manifest of this kind and name."""
    (found,) = [m for m in render(folder) if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pod(folder: Path) -> Manifest:
    """The pod of the service."""
    spec: Manifest = one(folder, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(folder: Path) -> Manifest:
    """The only container of the service's pod."""
    (only,) = pod(folder)["containers"]
    assert isinstance(only, dict)
    return only


def merge(base: Any, patch: Any, name: str = "") -> Any:
    """A strategic-merge patch."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = base | {key: merge(base.get(key), value, key) for key, value in patch.items()}
        return {key: value for key, value in merged.items() if value is not None}
    key = _KEYS.get(name, "name")
    if _is_keyed(base, key) and _is_keyed(patch, key):
        patches = {entry[key]: entry for entry in patch}
        changed = [merge(entry, patches.pop(entry[key], {})) for entry in base]
        # Kustomize puts what a patch adds in front.
        return list(patches.values()) + changed
    return patch


def _is_keyed(value: Any, key: str) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) and key in entry for entry in value)


def _rendered(folder: Path, before: list[Manifest]) -> list[Manifest]:
    (kustomization,) = documents(folder / "kustomization.yaml")
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "components", "patches"}
    found = list(before)
    for resource in kustomization.get("resources", []):
        path = (folder / resource).resolve()
        found += _rendered(path, []) if path.is_dir() else documents(path)
    for component in kustomization.get("components", []):
        found = _rendered((folder / component).resolve(), found)
    for entry in kustomization.get("patches", []):
        assert set(entry) == {"path"}
        (patch,) = documents(folder / entry["path"])
        (target,) = [index for index, manifest in enumerate(found) if identity(manifest) == identity(patch)]
        found[target] = merge(found[target], patch)
    return found
