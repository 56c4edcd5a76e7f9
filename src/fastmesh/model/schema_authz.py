"""AuthorizationPolicy (model): Istio's shape and Istio's rules for it, and a few more that keep a policy from
saying what it cannot mean. What becomes of it is compile/authz.py's."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from fastmesh.model.fields import Check, Enum, List, Message, Str, clip, later, req
from fastmesh.model.problems import Reporter
from fastmesh.model.schema_destinationrule import LABELS

MAX_PAIRS: Final = 4096
"""Sources times operations of one rule: each pair is judged for itself."""
NEEDS_JWT: Final = "it needs RequestAuthentication"
_REQUEST_HEADER: Final = re.compile(r"request\.headers\[([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}|:authority)\]")
_ADDRESSES: Final = ("source.ip", "remote.ip", "destination.ip")
_TEXTS: Final = ("source.namespace", "source.principal")
_TEMPLATE: Final = re.compile(r"\{\*\*?\}")


def _address(value: str, r: Reporter) -> None:
    try:
        if "%" in value:
            raise ValueError
        ipaddress.ip_network(value, strict=False) if "/" in value else ipaddress.ip_address(value)
    except ValueError:
        r.add(f"{clip(value)} is no IP address or network", "192.0.2.1 or 192.0.2.0/24")
        return
    bits = value.partition("/")[2]
    if bits and not bits.isdecimal():
        r.add(f"{clip(value)} is no IP address or network", "write the bits of the network: /24")


def _port(value: str, r: Reporter) -> None:
    if not (value.isdecimal() and value.isascii() and len(value) < 8 and int(value) <= 65535):
        r.add(f"{clip(value)} is not a port", 'a number from 0 to 65535, in quotes: "8080"')


def _path(value: str, r: Reporter) -> None:
    if "{" in value or "}" in value:
        _template(value, r)
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        r.add(f"{clip(value)} has a % that is no escape", "write %25")
    if re.search(r"[;\\\\\x00-\x20\x7f]|%(2[fF]|5[cC]|3[bB]|[01][0-9A-Fa-f]|7[fF])", value):
        r.add(f"{clip(value)} can never match", "requests with such a path are refused: spaces are %20")
    elif "//" in value or re.search(r"/\.\.?(/|$)", value):
        r.add(f"{clip(value)} can never match", "paths are normalised first: no //, /./, /../")
    elif "?" in value or "#" in value:
        r.add(f"{clip(value)} can never match", "a path has no query and no fragment")


def _template(value: str, r: Reporter) -> None:
    found = list(_TEMPLATE.finditer(value))
    rest = _TEMPLATE.sub("", value)
    if not found or "{" in rest or "}" in rest or "*" in rest:
        r.add(
            f"{clip(value)} is no path template", "{*} is one segment, {**} any number, and no other wildcard"
        )
    elif value[0] != "/":
        r.add(f"{clip(value)} is no path template", "begin it with a slash")
    elif any(value[m.start() - 1] != "/" or value[m.end() : m.end() + 1] not in ("", "/") for m in found):
        r.add(f"{clip(value)} is no path template", "{*} and {**} stand for whole segments")
    elif any(m.group() == "{**}" for m in found[:-1]):
        r.add(f"{clip(value)} is no path template", "nothing but text may follow {**}")


def _account(value: str, r: Reporter) -> None:
    if len(value) > 320 or "*" in value or value.count("/") > 1 or not all(value.split("/")):
        r.add(f"{clip(value)} is no service account", "name or namespace/name, without wildcards")


def values(rule: Check | None = None, high: int = 10_000) -> List:
    return List(Str(rule, empty=False), high=high)


def _source(d: dict[str, Any], r: Reporter) -> None:
    if not any(d.values()):
        r.add("says nothing", "give at least one field, or leave `from` out for any source")
    if any(d.get(k) for k in ("serviceAccounts", "notServiceAccounts")):
        for k in ("principals", "notPrincipals", "namespaces", "notNamespaces"):
            if d.get(k):
                r.add("does not go with serviceAccounts", at=(k,))


def _operation(d: dict[str, Any], r: Reporter) -> None:
    if not any(d.values()):
        r.add("says nothing", "give at least one field, or leave `to` out for any operation")


def _condition(d: dict[str, Any], r: Reporter) -> None:
    key = d["key"]
    if not d.get("values") and not d.get("notValues"):
        r.add("needs values or notValues")
    rule: Check | None = None
    if key in _ADDRESSES:
        rule = _address
    elif key == "destination.port":
        rule = _port
    elif key.startswith("request.auth."):
        r.add(f"{clip(key)}: not implemented yet", NEEDS_JWT, at=("key",))
    elif key == "connection.sni" or key.startswith("experimental."):
        r.add(f"{clip(key)}: not implemented yet", at=("key",))
    elif key.startswith("request.headers"):
        if not _REQUEST_HEADER.fullmatch(key):
            r.add(f"{clip(key)} is not an attribute", "request.headers[name]", at=("key",))
    elif key not in _TEXTS:
        known = ", ".join((*_ADDRESSES, *_TEXTS, "destination.port", "request.headers[name]"))
        r.add(f"{clip(key)} is not an attribute", f"one of {known}", at=("key",))
    if rule is not None:
        for field in ("values", "notValues"):
            for i, value in enumerate(d.get(field, ())):
                r.path += [field, i]
                rule(value, r)
                del r.path[-2:]


def _rule(d: dict[str, Any], r: Reporter) -> None:
    if len(d.get("from", ())) * len(d.get("to", ())) > MAX_PAIRS:
        r.add(f"has more than {MAX_PAIRS} pairs of a source and an operation", "make it several rules")


def _policy(d: dict[str, Any], r: Reporter) -> None:
    if d.get("action") in ("DENY", "AUDIT") and not d.get("rules"):
        r.warn("has no rules: it matches nothing")


SOURCE: Final = Message(
    "Source",
    {
        "principals": values(),
        "notPrincipals": values(),
        "requestPrincipals": later(NEEDS_JWT),
        "notRequestPrincipals": later(NEEDS_JWT),
        "namespaces": values(),
        "notNamespaces": values(),
        "serviceAccounts": values(_account, 16),
        "notServiceAccounts": values(_account, 16),
        "ipBlocks": values(_address),
        "notIpBlocks": values(_address),
        "remoteIpBlocks": values(_address),
        "notRemoteIpBlocks": values(_address),
    },
    rule=_source,
)
OPERATION: Final = Message(
    "Operation",
    {
        "hosts": values(),
        "notHosts": values(),
        "ports": values(_port),
        "notPorts": values(_port),
        "methods": values(),
        "notMethods": values(),
        "paths": values(_path),
        "notPaths": values(_path),
    },
    rule=_operation,
)
RULE: Final = Message(
    "Rule",
    {
        "from": List(Message("From", {"source": req(SOURCE)}), low=1, high=MAX_PAIRS),
        "to": List(Message("To", {"operation": req(OPERATION)}), low=1, high=MAX_PAIRS),
        "when": List(
            Message(
                "Condition",
                {"key": req(Str(empty=False)), "values": values(), "notValues": values()},
                rule=_condition,
            )
        ),
    },
    rule=_rule,
)
AUTHORIZATION_POLICY: Final = Message(
    "AuthorizationPolicy",
    {
        "selector": Message("WorkloadSelector", {"matchLabels": LABELS}),
        "targetRef": later("use selector"),
        "targetRefs": later("use selector"),
        "rules": List(RULE, high=4096),
        "action": Enum(["ALLOW", "DENY", "AUDIT"], {"CUSTOM": "it needs an external authorizer"}),
        "provider": later("it goes with CUSTOM"),
    },
    rule=_policy,
)
