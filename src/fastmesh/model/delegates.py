"""VirtualServices that delegate rules to others (model): one level, as in Istio.

`expanded` gives the rules that a VirtualService stands for: each of a delegate's rules under each match of
the rule that delegates. Matches that contradict each other are no rule; validate.py says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from fastmesh.model.index import Index
from fastmesh.model.schema import Key, Resource

INHERITED: Final = (
    "rewrite",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirrorPercentage",
    "mirrorPercent",
    "mirror_percent",
    "corsPolicy",
    "headers",
)
"""Of a rule that delegates, where the delegate's says nothing."""
MATCHED: Final = ("uri", "scheme", "method", "authority")
MAPPED: Final = ("headers", "withoutHeaders", "queryParams")


def is_delegate(vs: Resource) -> bool:
    """Without hosts it applies to nothing by itself."""
    return not vs.spec.get("hosts")


def delegate_key(http: dict[str, Any], vs: Resource) -> Key:
    given = http["delegate"]
    return ("VirtualService", given.get("namespace") or vs.namespace, given["name"])


def delegations(index: Index) -> Iterator[tuple[Resource, int, Key]]:
    """Every rule that delegates: (VirtualService, which of its rules, to whom)."""
    for vs in index.kind("VirtualService"):
        for i, http in enumerate(vs.spec["http"]):
            if "delegate" in http:
                yield vs, i, delegate_key(http, vs)


def expanded(index: Index, vs: Resource) -> Resource:
    """The VirtualService with the rules of its delegates in the place of those that delegate; itself where
    none does."""
    if not any("delegate" in http for http in vs.spec["http"]):
        return vs
    rules: list[dict[str, Any]] = []
    for http in vs.spec["http"]:
        if "delegate" not in http:
            rules.append(http)
            continue
        found = index.by_key.get(delegate_key(http, vs))
        if found is None or not is_delegate(found):
            continue
        for own in found.spec["http"]:
            merged = merge_rule(index, http, own, found.namespace)
            if merged is not None:
                rules.append(merged)
    return replace(vs, spec={**vs.spec, "http": rules})


def merge_rule(
    index: Index, root: dict[str, Any], own: dict[str, Any], namespace: str
) -> dict[str, Any] | None:
    """A delegate's rule under the one that delegates to it; None: no request can match both."""
    out = {**own}
    matches = [
        merged
        for r in root.get("match") or [{}]
        for o in own.get("match") or [{}]
        if (merged := merge_match(r, o)) is not None
    ]
    if not matches:
        return None
    if matches != [{}]:
        out["match"] = matches
    name = "-".join(filter(None, (root.get("name"), own.get("name"))))
    if name:
        out["name"] = name
    forwards = "route" in own
    for field in INHERITED:
        if field in root and field not in out and (forwards or field in ("corsPolicy", "headers")):
            out[field] = root[field]
    # names are those of the delegate's namespace
    if forwards:
        out["route"] = [
            {**d, "destination": _named(index, d["destination"], namespace)} for d in own["route"]
        ]
    if "mirror" in own:
        out["mirror"] = _named(index, own["mirror"], namespace)
    if "mirrors" in own:
        out["mirrors"] = [
            {**m, "destination": _named(index, m["destination"], namespace)} for m in own["mirrors"]
        ]
    return out


def _named(index: Index, destination: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {**destination, "host": index.canonical(destination["host"], namespace)}


def merge_match(root: dict[str, Any], own: dict[str, Any]) -> dict[str, Any] | None:
    """Both at once, or None where they contradict each other, by Istio's rules: of one string the delegate's
    must be narrower."""
    for field in MATCHED:
        if conflict(root.get(field), own.get(field)):
            return None
    for field in MAPPED:
        for k, v in own.get(field, {}).items():
            if conflict(root.get(field, {}).get(k), v):
                return None
    if "uri" in root and "uri" in own and root.get("ignoreUriCase", False) != own.get("ignoreUriCase", False):
        return None
    if "port" in root and root["port"] != own.get("port", root["port"]):
        return None
    labels = root.get("sourceLabels", {})
    if any(labels.get(k, v) != v for k, v in own.get("sourceLabels", {}).items()):
        return None
    if "sourceNamespace" in root and root["sourceNamespace"] != own.get(
        "sourceNamespace", root["sourceNamespace"]
    ):
        return None
    if root.get("gateways") and own.get("gateways") and not set(own["gateways"]) <= set(root["gateways"]):
        return None
    out = {**root, **own}
    for field in (*MAPPED, "sourceLabels"):
        if field in root or field in own:
            out[field] = {**root.get(field, {}), **own.get(field, {})}
    name = "-".join(filter(None, (root.get("name"), own.get("name"))))
    if name:
        out["name"] = name
    return out


def conflict(root: dict[str, str] | None, own: dict[str, str] | None) -> bool:
    """Of two conditions on one string."""
    if root is None or own is None:
        return False
    if "regex" in root or "regex" in own:
        return True
    if "exact" in root:
        return own.get("exact") != root["exact"]
    if "prefix" in root:
        narrower = own.get("exact", own.get("prefix"))
        return narrower is None or not narrower.startswith(root["prefix"])
    return bool(own)  # presence
