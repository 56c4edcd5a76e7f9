"""What a route may do besides choosing a destination: mirrors, CORS, rewriting by a pattern (compile)."""

from __future__ import annotations

from fastmesh._core.shm.pack import NONE, Packer, rewrite_check
from fastmesh.compile.packing import MILLION, choose, field_value, pack_regex, refuse, target_part, uint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastmesh.model import ir

MAX_MIRRORS = 4  # MIRRORS_MOST
CREDENTIALS, FORWARD = 1, 2  # CO_*
ORIGIN_OPS = {"any": 0, "exact": 1, "prefix": 2, "regex": 4}  # OP_*


def pack_rewrite(packer: Packer, rewrite: ir.Rewrite, path: str) -> int:
    """The index of the pattern."""
    index = pack_regex(packer, rewrite["regex"], f"{path}.regex")
    made = target_part(rewrite.get("path", ""), f"{path}.path")
    why = rewrite_check(rewrite["regex"].encode(), made.encode())
    if why is not None:
        raise refuse(f"{path}.path", f"{made!r}: {why}")
    return index


def pack_mirrors(
    packer: Packer, action: int, mirrors: list[ir.Mirror], clusters: Mapping[str, int], path: str
) -> None:
    if len(mirrors) > MAX_MIRRORS:
        raise refuse(path, f"more than {MAX_MIRRORS}")
    packer.action_mirrors(
        action,
        [
            (clusters.get(m["cluster"], NONE), uint(m.get("ppm", MILLION), f"{path}[{i}].ppm", MILLION))
            for i, m in enumerate(mirrors)
        ],
    )


def pack_cors(packer: Packer, action: int, cors: ir.Cors, path: str) -> None:
    origins = []
    for i, origin in enumerate(cors["origins"]):
        at = f"{path}.origins[{i}]"
        op, value, regex = choose(ORIGIN_OPS, origin["op"], f"{at}.op"), origin.get("value", ""), NONE
        if op == ORIGIN_OPS["regex"]:
            regex, value = pack_regex(packer, value, f"{at}.value"), ""
        origins.append((op, regex, value))
    seconds = cors.get("max_age_s")
    packer.action_cors(
        action,
        origins=origins,
        flags=(CREDENTIALS if cors.get("credentials") else 0) | (FORWARD if cors.get("forward", True) else 0),
        methods=field_value(",".join(cors.get("methods", ())), f"{path}.methods"),
        headers=field_value(",".join(cors.get("headers", ())), f"{path}.headers"),
        expose=field_value(",".join(cors.get("expose", ())), f"{path}.expose"),
        max_age="" if seconds is None else str(uint(seconds, f"{path}.max_age_s")),
    )
