"""The kinds that fastmesh knows and the envelope around each (model): apiVersion, kind, metadata, spec ->
Resource.

Server-side metadata that `kubectl get -o yaml` prints is accepted and without effect: `status`, and of
metadata creationTimestamp, deletionGracePeriodSeconds, deletionTimestamp, finalizers, generation,
managedFields, ownerReferences, resourceVersion, selfLink, uid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import INVALID, NOT_YET, Map, Message, Str, clip, did_you_mean, name_of
from fastmesh.model.problems import Origin, Path, Problem, Reporter
from fastmesh.model.schema_authz import AUTHORIZATION_POLICY
from fastmesh.model.schema_destinationrule import DESTINATION_RULE, LABELS
from fastmesh.model.schema_entries import GATEWAY, PEER_AUTHENTICATION, SERVICE_ENTRY, WORKLOAD_ENTRY
from fastmesh.model.schema_limits import LOCAL_RATE_LIMIT_RESOURCE
from fastmesh.model.schema_virtualservice import VIRTUAL_SERVICE

NETWORKING: Final = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
OWN: Final = ("networking.fastmesh.io/v1",)
"""What no API of Istio has."""
SECURITY: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")

KINDS: Final[dict[str, tuple[tuple[str, ...], Message]]] = {
    "VirtualService": (NETWORKING, VIRTUAL_SERVICE),
    "DestinationRule": (NETWORKING, DESTINATION_RULE),
    "ServiceEntry": (NETWORKING, SERVICE_ENTRY),
    "WorkloadEntry": (NETWORKING, WORKLOAD_ENTRY),
    "Gateway": (NETWORKING, GATEWAY),
    "PeerAuthentication": (SECURITY, PEER_AUTHENTICATION),
    "AuthorizationPolicy": (SECURITY, AUTHORIZATION_POLICY),
    "LocalRateLimit": (OWN, LOCAL_RATE_LIMIT_RESOURCE),
}
KINDS_LATER: Final = frozenset(
    {
        "Sidecar",
        "WorkloadGroup",
        "EnvoyFilter",
        "ProxyConfig",
        "RequestAuthentication",
        "Telemetry",
        "WasmPlugin",
        "HTTPRoute",
        "GRPCRoute",
        "TCPRoute",
        "TLSRoute",
        "ReferenceGrant",
        "GatewayClass",
    }
)
SERVER_SIDE_METADATA: Final = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
DEFAULT_NAMESPACE: Final = "default"

_NAME: Final = Str(fmt.object_name)
_NAMESPACE: Final = Str(fmt.namespace_name)
_ANNOTATIONS: Final = Map(Str(), fmt.label_key)

Key = tuple[str, str, str]


@dataclass(slots=True)
class Resource:
    """One checked object. `spec` is the normalised form (see fields.py); `raw` is the document as it was
    given."""

    kind: str
    namespace: str
    name: str
    spec: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    api_version: str = ""
    created: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    origin: Origin = field(default_factory=Origin, repr=False)

    @property
    def key(self) -> Key:
        return (self.kind, self.namespace, self.name)

    def problem(self, path: Path, message: str, hint: str = "", *, warning: bool = False) -> Problem:
        """A problem at a field of this object."""
        found: list[Problem] = []
        r = Reporter(self.origin, found, self.kind, self.namespace, self.name)
        r.add(message, hint, at=path, severity="warning" if warning else "error")
        return found[0]


def parse_resource(
    doc: Any, origin: Origin, problems: list[Problem], namespace: str = DEFAULT_NAMESPACE
) -> Resource | None:
    """Check one document against its kind's schema. Adds what is wrong to `problems`; None if any of it is an
    error.

    `namespace`: where an object without metadata.namespace goes."""
    r = Reporter(origin, problems)
    before = len(problems)
    if not isinstance(doc, dict):
        r.add(f"a resource must be a mapping, not {name_of(doc)}")
        return None
    metadata = doc.get("metadata")
    meta: dict[Any, Any] = metadata if isinstance(metadata, dict) else {}
    kind, name = doc.get("kind"), meta.get("name")
    where = meta.get("namespace", namespace)
    r.about(
        kind[:80] if isinstance(kind, str) else "",
        where[:80] if isinstance(where, str) else "",
        name[:256] if isinstance(name, str) else "",
    )
    schema = _check_kind(doc, kind, r)
    labels, annotations = _check_metadata(metadata, r)
    for k in doc:
        if k not in ("apiVersion", "kind", "metadata", "spec", "status"):
            label = k if isinstance(k, str) else str(k)
            r.add(
                "unknown field", did_you_mean(label, ["apiVersion", "kind", "metadata", "spec"]), at=(label,)
            )
    spec: Any = None
    if schema is not None:
        r.path.append("spec")
        given = doc.get("spec")
        # An object of all defaults is written without a spec, or as `spec: {}`.
        spec = schema.check({} if given is None else given, r)
        r.path.pop()
    if spec is None or spec is INVALID or any(p.severity == "error" for p in problems[before:]):
        return None
    assert isinstance(kind, str) and isinstance(name, str) and isinstance(where, str)
    created = meta.get("creationTimestamp")
    return Resource(
        kind,
        where,
        name,
        spec,
        labels,
        annotations,
        doc["apiVersion"],
        created if isinstance(created, str) else "",
        doc,
        origin,
    )


def _check_kind(doc: dict[Any, Any], kind: Any, r: Reporter) -> Message | None:
    version = doc.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        r.add("is required", f"one of {', '.join(KINDS)}", at=("kind",))
        return None
    if kind in KINDS_LATER or (
        kind == "Gateway" and isinstance(version, str) and version.startswith("gateway.networking")
    ):
        r.add(
            f"{kind} of {clip(version)}: {NOT_YET}" if kind == "Gateway" else f"{kind}: {NOT_YET}",
            f"kinds: {', '.join(KINDS)}",
            at=("kind",),
        )
        return None
    if kind not in KINDS:
        r.add(
            f"unknown kind {clip(kind)}",
            did_you_mean(kind, KINDS) or f"kinds: {', '.join(KINDS)}",
            at=("kind",),
        )
        return None
    versions, schema = KINDS[kind]
    if not isinstance(version, str):
        r.add("is required", f"for {kind}: {versions[0]}", at=("apiVersion",))
    elif version not in versions:
        r.add(
            f"{clip(version)} is not a version of {kind}", f"one of {', '.join(versions)}", at=("apiVersion",)
        )
    return schema


def _check_metadata(metadata: Any, r: Reporter) -> tuple[dict[str, str], dict[str, str]]:
    r.path.append("metadata")
    found: dict[str, Any] = {}
    if not isinstance(metadata, dict):
        r.add(
            "is required" if metadata is None else f"must be a mapping, not {name_of(metadata)}",
            "give metadata.name",
        )
    else:
        if "name" not in metadata:
            r.add("is required", at=("name",))
        types = {"name": _NAME, "namespace": _NAMESPACE, "labels": LABELS, "annotations": _ANNOTATIONS}
        for k, v in metadata.items():
            if k in SERVER_SIDE_METADATA:
                continue
            label = k if isinstance(k, str) else str(k)
            r.path.append(label)
            if k in types:
                found[k] = {} if v is None and k in ("labels", "annotations") else types[k].check(v, r)
            else:
                r.add(
                    f"{NOT_YET}" if k == "generateName" else "unknown field of metadata",
                    "give name" if k == "generateName" else did_you_mean(label, types),
                )
            r.path.pop()
    r.path.pop()
    return tuple(found[k] if isinstance(found.get(k), dict) else {} for k in ("labels", "annotations"))
