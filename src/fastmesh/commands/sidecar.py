"""`fastmesh sidecar`: the proxy beside one application instance, a member of a mesh."""

from __future__ import annotations

import argparse
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from fastmesh.commands import options
from fastmesh.model.bundle import check_bundle

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EXAMPLE = """
The application sends its requests to the outbound port, by Host header or as http_proxy; requests to it
arrive at the inbound port, over mTLS. BUNDLE is what `fastmesh token create --service NAME` prints on the
control plane.

example:
  fastmesh token create --service reviews > join.json
  fastmesh sidecar --join join.json --service reviews --version v2 --app 127.0.0.1:9080
"""


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "sidecar",
        help="run the proxy beside an application",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    required = parser.add_argument_group("required")
    required.add_argument("--join", required=True, metavar="BUNDLE", help="the join bundle (a file)")
    required.add_argument("--service", required=True, metavar="NAME", help="the service that it belongs to")
    required.add_argument(
        "--app",
        type=options.address,
        required=True,
        metavar="HOST:PORT",
        help="where the application listens",
    )
    parser.add_argument("--namespace", default="default", metavar="NAME", help="default 'default'")
    parser.add_argument(
        "--version", default="", metavar="LABEL", help="the workload's version label, e.g. v2"
    )
    parser.add_argument(
        "--inbound",
        type=options.address,
        default=("0.0.0.0", 15006),
        metavar="HOST:PORT",
        help="for requests to the application (default 0.0.0.0:15006)",
    )
    parser.add_argument(
        "--outbound",
        type=options.address,
        default=("127.0.0.1", 15001),
        metavar="HOST:PORT",
        help="for requests of the application (default 127.0.0.1:15001)",
    )
    parser.add_argument(
        "--address",
        default="",
        metavar="IP",
        help="under which others reach the inbound port (default: as the control plane is reached)",
    )
    parser.add_argument(
        "--concurrency", type=options.workers, default=1, metavar="N", help="worker processes (default 1)"
    )
    parser.add_argument(
        "--state",
        default="",
        metavar="DIR",
        help="keeps identity and last good config, to start without the control plane",
    )
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    try:
        bundle = read_bundle(args.join)
    except ValueError as error:
        return options.fail(f"{args.join}: {error}")
    node_id = f"sidecar~{args.namespace}~{args.service}~{socket.gethostname()}~{args.inbound[1]}"
    spec = options.common_spec(args, "sidecar", node_id)
    spec["state"] = os.path.abspath(args.state) if args.state else ""
    spec["sidecar"] = {
        "bundle": bundle,
        "service": args.service,
        "namespace": args.namespace,
        "version": args.version,
        "app": args.app,
        "inbound": args.inbound,
        "outbound": args.outbound,
        "address": args.address,
    }
    from fastmesh.supervisor.spec import launch

    launch(spec)


def read_bundle(path: str) -> dict[str, Any]:
    """The bundle as parsed; ValueError says what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            bundle = json.load(file)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except ValueError:
        raise ValueError("not a join bundle: no JSON") from None
    problem = check_bundle(bundle)
    if problem:
        raise ValueError(problem)
    found: dict[str, Any] = bundle
    return found
