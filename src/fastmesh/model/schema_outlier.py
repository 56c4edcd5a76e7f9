"""DestinationRule trafficPolicy.outlierDetection, field for field (networking.istio.io; API of Istio 1.31).
Two fields are Envoy's and not Istio's, in Istio's spelling: successRate, failurePercentage. Only the shape:
what becomes of it is compile/outlier.py's."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model.fields import Bool, Duration, Int, Message
from fastmesh.model.problems import Reporter

MAX_TIME_MS: Final = 2**32 - 1


def _rule(d: dict[str, Any], r: Reporter) -> None:
    if "consecutiveErrors" in d:
        r.warn(
            "is deprecated by Istio and means consecutiveGatewayErrors",
            "give consecutiveGatewayErrors or consecutive5xxErrors",
            at=("consecutiveErrors",),
        )
        if "consecutiveGatewayErrors" in d:
            r.warn("has no effect beside consecutiveGatewayErrors", "remove it", at=("consecutiveErrors",))
    if "consecutiveLocalOriginFailures" in d and not d.get("splitExternalLocalOriginErrors"):
        r.warn(
            "has no effect without splitExternalLocalOriginErrors, as in Istio",
            "set splitExternalLocalOriginErrors: true",
            at=("consecutiveLocalOriginFailures",),
        )


MAX_COUNT: Final = 2**31 - 1

SUCCESS_RATE: Final = Message(
    "SuccessRate",
    {
        "minimumHosts": Int(1, MAX_COUNT),
        "requestVolume": Int(1, MAX_COUNT),
        "stdevFactor": Int(1, MAX_COUNT),  # in thousandths, as Envoy's
    },
)

FAILURE_PERCENTAGE: Final = Message(
    "FailurePercentage",
    {
        "threshold": Int(1, 100),
        "minimumHosts": Int(1, MAX_COUNT),
        "requestVolume": Int(1, MAX_COUNT),
    },
)

OUTLIER_DETECTION: Final = Message(
    "OutlierDetection",
    {
        "consecutiveErrors": Int(0),
        "splitExternalLocalOriginErrors": Bool(),
        "consecutiveLocalOriginFailures": Int(0),
        "consecutiveGatewayErrors": Int(0),
        "consecutive5xxErrors": Int(0),
        "interval": Duration(high=MAX_TIME_MS),
        "baseEjectionTime": Duration(high=MAX_TIME_MS),
        "maxEjectionPercent": Int(0, 100),
        "minHealthPercent": Int(0, 100),
        "successRate": SUCCESS_RATE,
        "failurePercentage": FAILURE_PERCENTAGE,
    },
    rule=_rule,
)
