"""`fastmesh proxy-status`: what each sidecar's workers serve."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fastmesh.commands import remote

EXAMPLE = """  fastmesh proxy-status
  fastmesh proxy-status reviews-3f9a1c22d0b4 -o json
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = remote.add_command(
        subparsers, "proxy-status", "show which version each proxy's workers serve", EXAMPLE
    )
    parser.add_argument("proxy", metavar="PROXY", nargs="?", help="one proxy (default: all)")
    parser.add_argument("-n", "--namespace", default="", metavar="NAME", help="default: all")
    remote.add_output(parser, "table", "json", "yaml")


def run(args: argparse.Namespace) -> int:
    def work() -> int:
        items = remote.connect(args).items("proxies", namespace=args.namespace)
        if args.proxy:
            items = [
                p for p in items if args.proxy in (p["name"], p["instance"], p["name"].rpartition(".")[0])
            ]
            if not items:
                return remote.fail(f"proxy {args.proxy} is not connected", remote.FAILED)
        if args.output != "table":
            remote.show({"items": items}, args.output)
            return remote.OK
        remote.table(
            ("PROXY", "NAMESPACE", "STATUS", "TOPICS", "VERSION", "GENERATION", "WORKERS", "CERT EXPIRES IN"),
            [
                (
                    p["name"].rpartition(".")[0],
                    p["namespace"],
                    status_of(p),
                    f"{p['topics'] - len(p['late'])}/{p['topics']}",
                    p["version"],
                    p["status"].get("generation", "-"),
                    p["status"].get("workers", "-"),
                    remote.span(p["cert_expires"] - time.time()),
                )
                for p in items
            ],
        )
        return remote.OK

    return remote.guarded(work)


def status_of(proxy: dict[str, Any]) -> str:
    """SYNCED, or what keeps it from that."""
    if proxy["refused"]:
        return f"REFUSED ({', '.join(proxy['refused'])})"
    if not proxy["ready"]:
        return "STARTING"
    return f"LATE ({len(proxy['late'])})" if proxy["late"] else "SYNCED"
