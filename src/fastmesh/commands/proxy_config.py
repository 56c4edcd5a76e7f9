"""`fastmesh proxy-config`: the config that one sidecar says it serves, asked of it now."""

from __future__ import annotations

import argparse

from fastmesh.commands import remote

EXAMPLE = """  fastmesh proxy-config reviews-3f9a1c22d0b4
  fastmesh proxy-config reviews-3f9a1c22d0b4.default clusters -o yaml
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = remote.add_command(subparsers, "proxy-config", "show the config that a proxy serves", EXAMPLE)
    parser.add_argument("proxy", metavar="PROXY", help="a name that proxy-status shows")
    parser.add_argument(
        "what",
        metavar="WHAT",
        nargs="?",
        default="config",
        help="config (default), clusters, certs, stats or server_info",
    )
    remote.add_output(parser, "json", "yaml")


def run(args: argparse.Namespace) -> int:
    def work() -> int:
        client = remote.connect(args)
        remote.show(client.proxy_config(args.proxy, args.what), args.output)
        return remote.OK

    return remote.guarded(work)
