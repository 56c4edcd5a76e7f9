"""corsPolicy of a VirtualService, field for field (networking.istio.io; API of Istio 1.31)."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import Bool, Duration, Enum, List, Message, Str
from fastmesh.model.problems import Reporter


def _origin(d: dict[str, Any], r: Reporter) -> None:
    if not d:
        r.add("needs one of exact, prefix, regex")
    elif d.get("prefix") == "" or d.get("regex") == "" or d.get("exact") == "":
        r.add("an empty value says nothing", "give an origin, e.g. https://example.com")
    exact = d.get("exact", "")
    if exact and exact != "*" and "://" not in exact and exact != "null":
        r.warn(
            "is no origin: this never matches",
            "begin with the scheme, e.g. https://example.com",
            at=("exact",),
        )


ORIGIN: Final = Message(
    "StringMatch",
    {"exact": Str(), "prefix": Str(), "regex": Str(fmt.regex)},
    one_of=(("exact", "prefix", "regex"),),
    rule=_origin,
)


def _method(value: str, r: Reporter) -> None:
    if value != "*":
        fmt.header_name(value, r)  # both are tokens
        if value != value.upper():
            r.warn("methods are case-sensitive and in upper case")


def _names(value: str, r: Reporter) -> None:
    if value != "*":
        fmt.header_name(value, r)


def _cors(d: dict[str, Any], r: Reporter) -> None:
    if "allowOrigin" in d:
        r.warn("is deprecated by Istio", "give allowOrigins: [{exact: ...}]", at=("allowOrigin",))
        if "allowOrigins" in d:
            r.add("contradicts allowOrigins", "remove it", at=("allowOrigin",))
    if not d.get("allowOrigin") and not d.get("allowOrigins"):
        r.add("allows no origin", "give allowOrigins", at=("allowOrigins",))
    everyone = any(o.get("exact") == "*" or o.get("regex") == ".*" for o in d.get("allowOrigins", ()))
    if d.get("allowCredentials") and (everyone or "*" in d.get("allowOrigin", ())):
        r.warn(
            "lets every site act with its visitors' credentials", "name the origins", at=("allowCredentials",)
        )
    if d.get("maxAge", 0) % 1000:
        r.add("must be whole seconds", at=("maxAge",))


CORS_POLICY: Final = Message(
    "CorsPolicy",
    {
        "allowOrigin": List(Str(empty=False)),
        "allowOrigins": List(ORIGIN),
        "allowMethods": List(Str(_method)),
        "allowHeaders": List(Str(_names)),
        "exposeHeaders": List(Str(_names)),
        "maxAge": Duration(zero=True),
        "allowCredentials": Bool(),
        "unmatchedPreflights": Enum(["UNSPECIFIED", "FORWARD", "IGNORE"]),
    },
    rule=_cors,
)
