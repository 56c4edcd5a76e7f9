"""`fastmesh control`: the control plane. Only its options are here; the package is loaded when it runs."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from fastmesh.commands import remote

EXAMPLE = """
State, keys and the certificate authority are made in DIR on first start. The API's token is in DIR/api.token.

example:
  fastmesh control --state /var/lib/fastmesh
  fastmesh control --state DIR --listen 0.0.0.0:15010 --advertise 10.0.0.5
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = subparsers.add_parser(
        "control",
        help="run the control plane",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state",
        required=True,
        metavar="DIR",
        help="where state, keys and the CA are kept (made if missing)",
    )
    parser.add_argument(
        "--listen",
        type=host_port,
        default="127.0.0.1:15010",
        metavar="HOST:PORT",
        help="for sidecars' requests (default %(default)s)",
    )
    parser.add_argument(
        "--publish",
        type=host_port,
        metavar="HOST:PORT",
        help="for updates to sidecars (default: the port after --listen's)",
    )
    parser.add_argument(
        "--api",
        type=host_port,
        default="127.0.0.1:15014",
        metavar="HOST:PORT",
        help="HTTP API of the CLI (default %(default)s)",
    )
    parser.add_argument(
        "--advertise", metavar="HOST", help="address that join bundles give (default: that of --listen)"
    )
    parser.add_argument(
        "--trust-domain", default="cluster.local", metavar="NAME", help="of SPIFFE IDs (default %(default)s)"
    )
    parser.add_argument(
        "--ca",
        default="",
        metavar="DIR",
        help="a certificate authority from elsewhere, watched: ca-cert.pem, ca-key.pem and root-cert.pem, or "
        "tls.crt, tls.key and ca.crt (default: a root of its own)",
    )
    parser.add_argument(
        "--cert-ttl",
        default=24 * 3600.0,
        type=remote.duration,
        metavar="TIME",
        help="life of sidecars' certificates (default 24h)",
    )
    parser.add_argument(
        "--lease",
        default=6.0,
        type=remote.duration,
        metavar="TIME",
        help="a sidecar silent for so long leaves the endpoint lists (default 6s; heartbeats: 3 a lease)",
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))


def host_port(text: str) -> str:
    """HOST:PORT, checked."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def run(args: argparse.Namespace) -> int:
    for needed in ("starlette", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(needed) is None:
            return remote.fail("the control plane is not installed: pip install 'fastmesh[control]'", 1)
    status: int = importlib.import_module("fastmesh_control.main").run(args)
    return status
