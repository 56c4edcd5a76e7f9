"""The join bundle: what a sidecar is given to join a mesh, as one JSON object.

Owns its fields and their check. It must not know sockets or files.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
FIELDS = (
    "control",
    "updates",
    "server_key",
    "trust_domain",
    "namespace",
    "service",
    "service_account",
    "spiffe_id",
    "token",
)
_KEY_LENGTH = 40  # of a CURVE key in Z85


def check_bundle(bundle: Any) -> str:
    """What is wrong with a bundle, "" when it can be used. (Whether its token still lets in, only the control
    plane knows.)"""
    if not isinstance(bundle, dict) or "token" not in bundle:
        return "not a join bundle: make one with `fastmesh token create --service NAME`"
    if bundle.get("version") != VERSION:
        return f"a join bundle of version {bundle.get('version')!r:.20}; this release reads version {VERSION}"
    for name in FIELDS:
        if not isinstance(bundle.get(name), str) or not bundle[name]:
            return f"not a join bundle: {name} is missing"
    for name in ("control", "updates"):
        if not bundle[name].startswith("tcp://"):
            return f"not a join bundle: {name} is no tcp:// address"
    if len(bundle["server_key"]) != _KEY_LENGTH:
        return "not a join bundle: server_key is no CURVE key"
    return ""
