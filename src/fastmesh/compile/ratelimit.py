"""Local rate limits: what a rule says -> a route's dict form, and that -> a snapshot (compile).

A bucket's id is the hash of what it belongs to and what it says: it keeps its state over new generations as
long as neither changes, and all routes that a rule becomes (its matches, listeners, tables) share it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from typing import Any

    from fastmesh._core.shm.pack import Packer
    from fastmesh.model import ir
    from fastmesh.model.schema import Resource

PER = {"route": 0, "identity": 1, "named": 2}  # PER_* of shm/snapshot.pxd
MAX_LIMITS = 66  # SNAP_MAX_LIMITS


def rule_owners(vs: Resource) -> list[str]:
    """What the limits of each http rule of a VirtualService belong to. A rule that is named keeps its buckets
    when others come before it; those without a name go by their order."""
    seen: dict[str, int] = {}
    owners = []
    for http in vs.spec["http"]:
        name = http.get("name", "")
        seen[name] = seen.get(name, -1) + 1
        owners.append(f"{vs.namespace}/{vs.name}/{name}/{seen[name]}")
    return owners


def limits_of(said: dict[str, Any], owner: str) -> list[ir.Limit]:
    """Those of callers first: who has none left does not cost the others a token of all."""
    made: list[ir.Limit] = []
    if "perIdentity" in said:
        made.append(limit(said["perIdentity"], owner, "identity"))
    if "tokenBucket" in said:
        made.append(limit(said["tokenBucket"], owner, "route"))
    return made


def limit(bucket: dict[str, Any], owner: str, per: Any) -> ir.Limit:
    most = bucket["maxTokens"]
    return {
        "owner": owner,
        "most": most,
        "fill": bucket.get("tokensPerFill", most),
        "fill_ms": bucket["fillInterval"],
        "per": per,
    }


def pack_limits(packer: Packer, action: int, limits: list[ir.Limit], path: str) -> None:
    """The limits of an action that was added. What a bucket may be is checked in full with the snapshot
    (shm/check_actions)."""
    from fastmesh._core.shm.pack import fnv1a  # the control plane uses limits_of(), and has no _core
    from fastmesh.compile.packing import choose, refuse, uint

    if len(limits) > MAX_LIMITS:
        raise refuse(path, f"more than {MAX_LIMITS}")
    made = []
    for i, each in enumerate(limits):
        at = f"{path}[{i}]"
        per = choose(PER, each["per"], f"{at}.per")
        most = uint(each["most"], f"{at}.most", least=1)
        fill = uint(each["fill"], f"{at}.fill", least=1)
        fill_ms = uint(each["fill_ms"], f"{at}.fill_ms", least=1)
        known = fnv1a(repr((each["owner"], most, fill, fill_ms, per)).encode())
        who = each.get("who", "")
        if bool(who) != (each["per"] == "named"):
            raise refuse(f"{at}.who", "goes with per: named, and it with that")
        made.append(
            packer.limit(
                each["owner"],
                id=known,
                most=most,
                fill=fill,
                fill_ms=fill_ms,
                per=per,
                who=fnv1a(who.encode()) if who else 0,
            )
        )
    if made:
        packer.action_limits(action, (made[0], len(made)))
