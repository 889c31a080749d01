"""Schemas of the custom resources that the manifests use, as far as these use them; Kubernetes' own are a package's.

Written from the public documentation of the Prometheus operator (monitoring.coreos.com/v1) and KEDA (keda.sh/v1alpha1).
A field that is not named here is refused, as the API server refuses it.
"""

from collections.abc import Mapping
from typing import Any

import jsonschema
import yaml

from tests.k8s.render import ROOT

_DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_RULE = {
    "oneOf": [
        _object(
            ("record", "expr"),
            record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
            expr={"type": "string"},
            labels=_TEXTS,
        ),
        _object(
            ("alert", "expr"),
            alert={"type": "string", "minLength": 1},
            expr={"type": "string", "minLength": 1},
            **{"for": _DURATION, "keep_firing_for": _DURATION},
            labels=_TEXTS,
            annotations=_TEXTS,
        ),
    ]
}
_SPECS: Mapping[tuple[str, str], dict[str, Any]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _object(
        ("selector", "endpoints"),
        selector=_object(("matchLabels",), matchLabels=_TEXTS),
        endpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ("port",),
                port={"type": "string"},
                path={"type": "string", "pattern": "^/"},
                interval=_DURATION,
                scrapeTimeout=_DURATION,
            ),
        },
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        ("groups",),
        groups={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ("name", "rules"),
                name={"type": "string", "minLength": 1},
                interval=_DURATION,
                rules={"type": "array", "minItems": 1, "items": _RULE},
            ),
        },
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _object(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=_object(("name",), name={"type": "string"}),
        minReplicaCount={"type": "integer", "minimum": 0},
        maxReplicaCount={"type": "integer", "minimum": 1},
        pollingInterval={"type": "integer", "minimum": 1},
        cooldownPeriod={"type": "integer", "minimum": 0},
        fallback=_object(
            ("failureThreshold", "replicas"), failureThreshold={"type": "integer"}, replicas={"type": "integer"}
        ),
        triggers={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ("type", "metadata"),
                type={"const": "prometheus"},
                metricType={"enum": ["AverageValue", "Value"]},
                # KEDA takes texts alone here, numbers included.
                metadata=_TEXTS | {"required": ["serverAddress", "query", "threshold"]},
            ),
        },
    ),
}


def is_custom(manifest: Mapping[str, Any]) -> bool:
    """Whether it is of one of these kinds."""
    return (manifest["apiVersion"], manifest["kind"]) in _SPECS


def validate(manifest: Mapping[str, Any]) -> None:
    """Check one against its schema.

    Raises:
        jsonschema.ValidationError: it does not fit.
    """
    metadata = _object(("name",), name={"type": "string"}, labels=_TEXTS, annotations=_TEXTS)
    spec = _SPECS[manifest["apiVersion"], manifest["kind"]]
    schema = _object(("spec",), apiVersion={}, kind={}, metadata=metadata, spec=spec)
    jsonschema.validate(dict(manifest), schema)


def prometheus_rule(rules: str) -> dict[str, Any]:
    """The alert rules of a Prometheus rules file as a resource of the Prometheus operator."""
    metadata = {"name": "sidera-alerts", "labels": {"app.kubernetes.io/name": "sidera"}}
    spec = {"groups": yaml.safe_load(rules)["groups"]}
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": spec}


if __name__ == "__main__":
    alerts = ROOT / "observability/alerts.yaml"
    made = yaml.safe_dump(prometheus_rule(alerts.read_text()), sort_keys=False, width=110)
    told = "# Made from observability/alerts.yaml by: python -m tests.k8s.custom_resources; do not edit.\n"
    (ROOT / "k8s/components/monitoring/alerts.yaml").write_text(told + made)
