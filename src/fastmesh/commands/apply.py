"""`fastmesh apply`: create or change resources, all of them or none."""

from __future__ import annotations

import argparse
import sys

from fastmesh.commands import remote

EXAMPLE = """  fastmesh apply -f canary.yaml --wait
  cat mesh.yaml | fastmesh apply -f -
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = remote.add_command(subparsers, "apply", "create or change resources, all or none", EXAMPLE)
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="YAML or JSON, a directory of such files, or '-' for stdin; may be repeated",
    )
    remote.add_namespace(parser)
    remote.add_wait(parser)
    parser.add_argument("--dry-run", action="store_true", help="check and compile, change nothing")
    remote.add_output(parser, "text", "json", "yaml")


def run(args: argparse.Namespace) -> int:
    def work() -> int:
        client = remote.connect(args)
        done = client.apply(remote.read_files(args.filename), args.namespace, args.dry_run)
        for warning in done["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        if args.output != "text":
            remote.show(done, args.output)
        else:
            for o in done["objects"]:
                suffix = " (dry run)" if args.dry_run else ""
                print(f"{o['kind'].lower()}/{o['name']} {o['action']}{suffix}")
        if args.wait and not args.dry_run:
            return remote.wait(client, done["version"], args.timeout, args.output != "text")
        return remote.OK

    return remote.guarded(work)
