"""Fault injection of a VirtualService, field for field (networking.istio.io; API of Istio 1.31)."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model.fields import Duration, Int, Message, Number, Str, later
from fastmesh.model.problems import Reporter

GRPC_STATUSES: Final = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
"""By their numbers."""

PERCENT: Final = Message("Percent", {"value": Number(0, 100)})


def _share(d: dict[str, Any], r: Reporter) -> None:
    if "percent" in d:
        r.warn("is deprecated by Istio", "give percentage: {value: ...}", at=("percent",))
    if not d.get("percentage", {}).get("value", d.get("percent", 0)):
        r.warn("concerns no request: without a percentage it is 0, as in Istio", "give percentage.value")


def _delay(d: dict[str, Any], r: Reporter) -> None:
    if "fixedDelay" not in d:
        r.add("needs fixedDelay")
    _share(d, r)


def _grpc_status(value: str, r: Reporter) -> None:
    if value.upper() not in GRPC_STATUSES and not (value.isdigit() and int(value) < len(GRPC_STATUSES)):
        r.add(f"{value!r} is not a gRPC status", "e.g. UNAVAILABLE")


def _abort(d: dict[str, Any], r: Reporter) -> None:
    if "httpStatus" not in d and "grpcStatus" not in d:
        r.add("needs httpStatus or grpcStatus")
    _share(d, r)


def _fault(d: dict[str, Any], r: Reporter) -> None:
    if not d:
        r.add("needs delay or abort")


FAULT: Final = Message(
    "HTTPFaultInjection",
    {
        "delay": Message(
            "HTTPFaultInjectionDelay",
            {
                "percent": Int(0, 100),
                "fixedDelay": Duration(),
                "exponentialDelay": later(),
                "percentage": PERCENT,
            },
            rule=_delay,
        ),
        "abort": Message(
            "HTTPFaultInjectionAbort",
            {
                "httpStatus": Int(200, 599),
                "grpcStatus": Str(_grpc_status),
                "http2Error": later(),
                "percentage": PERCENT,
            },
            one_of=(("httpStatus", "grpcStatus"),),
            rule=_abort,
        ),
    },
    rule=_fault,
)
