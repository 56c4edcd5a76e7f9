"""`fastmesh edge`: a proxy that serves a file and needs no control plane."""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING

from fastmesh.commands import options

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EXAMPLE = """
FILE holds Gateway, VirtualService, DestinationRule and ServiceEntry documents, as Istio has them. HUP makes
the proxy read it again; if it cannot be used, what is wrong is written to stderr and the old config serves
on.

example:
  fastmesh edge --config edge.yaml --access-log -
"""


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "edge",
        help="run a proxy from a file, without a control plane",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="multi-document YAML")
    parser.add_argument(
        "--concurrency",
        type=options.workers,
        default=options.default_workers(),
        metavar="N",
        help="worker processes (default: the processors that this process may use)",
    )
    parser.add_argument("--check", action="store_true", help="only say whether FILE can be used")
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    if not os.path.isfile(args.config):
        what = "not a file" if os.path.exists(args.config) else "no such file"
        return options.fail(f"{args.config}: {what}")
    node_id = f"edge~{socket.gethostname()}"
    if args.check:
        return check(args.config, node_id, args.locality)
    spec = options.common_spec(args, "edge", node_id)
    spec["file"] = os.path.abspath(args.config)
    spec["locality"] = args.locality
    from fastmesh.supervisor.spec import launch

    launch(spec)


def check(file: str, node_id: str, locality: str) -> int:
    """0 if the file can be used, else 2 and every reason."""
    from fastmesh.supervisor.compiler import Compilation
    from fastmesh.supervisor.log import Log

    compilation = Compilation(file, node_id, locality, Log("check"), lambda: None)
    compiled = compilation.result(os.waitpid(compilation.pid, 0)[1])
    for text in compiled.errors:
        options.fail(text)
    for text in compiled.warnings:
        print(f"warning: {text}")
    if compiled.errors:
        return 2
    os.close(compiled.fd)
    ports = ", ".join(f"{name} ({address}:{port})" for name, address, port in compiled.listeners)
    print(f"{file}: can be used; listeners: {ports or 'none'}")
    return 0
