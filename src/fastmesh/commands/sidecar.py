"""`fastmesh sidecar`: the proxy beside one application instance, a member of a mesh."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import tempfile
from typing import TYPE_CHECKING, Any

from fastmesh.commands import options

if TYPE_CHECKING:
    from fastmesh.supervisor.spec import Spec

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# What the agent needs of a bundle.
BUNDLE = ("control", "updates", "server_key", "trust_domain", "service", "namespace", "spiffe_id", "token")
# CURVE keys are 32 bytes in ZeroMQ's alphabet of 85 characters, four bytes in five.
KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
ADDRESS = re.compile(r"tcp://(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}")

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
    parser.add_argument(
        "--wait-for-app",
        action="store_true",
        help="others are told of this workload when the application accepts connections, not before",
    )
    parser.add_argument(
        "--intercept",
        action="store_true",
        help="connections of the application and to it are redirected here by the packet filter (as by "
        "istio-iptables): the address that was called is what they are for",
    )
    parser.add_argument(
        "--outbound-traffic-policy",
        choices=("ALLOW_ANY", "REGISTRY_ONLY"),
        default="ALLOW_ANY",
        help="with --intercept: what is for no service goes on to where it was for, or is refused",
    )
    add_options(parser)
    options.add_common(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `fastmesh run` takes, too."""
    parser.add_argument(
        "--app-health",
        type=path,
        default="",
        metavar="PATH",
        help="others are told of this workload when a GET of this path is answered with 2xx or 3xx",
    )
    parser.add_argument(
        "--app-protocol",
        type=app_protocol,
        default="",
        metavar="NAME",
        help="what the application speaks: http (HTTP/1.1), http2, grpc, tcp (also mysql, redis, mongo); "
        "default: each request goes to it in the version of its client",
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
        "--outbound-tcp",
        type=tcp_port,
        action="append",
        default=[],
        metavar="[HOST:]PORT=SERVICE[:PORT]",
        help="a local port (of 127.0.0.1) that stands for a TCP service, e.g. 5432=postgres; repeatable",
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
        help="keeps identity and last good config, to start without control plane (default: a temporary one)",
    )


def run(args: argparse.Namespace) -> int:
    gate = args.app_health or ("connect" if args.wait_for_app else "")
    try:
        spec = sidecar_spec(args, args.app, gate)
    except ValueError as error:
        return options.fail(str(error))
    from fastmesh.supervisor.spec import launch

    launch(spec)


def sidecar_spec(args: argparse.Namespace, app: tuple[str, int], gate: str) -> Spec:
    """A sidecar's spec; ValueError. `gate`: see SidecarSpec."""
    try:
        bundle = read_bundle(args.join)
    except ValueError as error:
        raise ValueError(f"{args.join}: {error}") from None
    for name in ("service", "namespace"):
        if getattr(args, name) != bundle[name]:
            raise ValueError(f"{args.join} lets in {name} {bundle[name]!r}, not {getattr(args, name)!r}")
    node_id = f"sidecar~{args.namespace}~{args.service}~{socket.gethostname()}~{args.inbound[1]}"
    intercept = getattr(args, "intercept", False)  # not of `fastmesh run`, whose command is of the same user
    if intercept and catches_itself(args.outbound[1]):
        raise ValueError(
            "--intercept: connections of this very user are redirected, too: the proxy's own would come back "
            "to it; run it as another user than the application, and exclude that one from the rules"
        )
    spec = options.common_spec(args, "sidecar", node_id)
    spec["state"], spec["ephemeral"] = state_directory(args.state)
    spec["sidecar"] = {
        "bundle": bundle,
        "service": args.service,
        "namespace": args.namespace,
        "version": args.version,
        "app": app,
        "app_protocol": args.app_protocol,
        "inbound": args.inbound,
        "outbound": args.outbound,
        "address": args.address,
        "locality": args.locality,
        "gate": gate,
        "tcp": args.outbound_tcp,
    }
    if intercept:
        spec["sidecar"]["intercept"] = args.outbound_traffic_policy
        spec["sidecar"]["ipv6"] = has_ipv6()
    return spec


# TEST-NET-1 (RFC 5737): nobody has this address, so whoever answers there is the packet filter's doing.
NOWHERE = ("192.0.2.1", 15001)


def catches_itself(port: int) -> bool:
    """Is a connection of this process redirected to where this sidecar is going to listen?"""
    with socket.socket() as trap, socket.socket() as probe:
        trap.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.settimeout(0.2)
        try:
            trap.bind(("127.0.0.1", port))
            trap.listen(1)
            probe.connect(NOWHERE)
        except OSError:
            return False  # in use (the arbiter says so), or nobody answered, as it should be
        return True


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def path(text: str) -> str:
    if not text:
        return ""
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path such as /healthz")
    return text


def app_protocol(text: str) -> str:
    """A protocol by its name as appProtocol, or by a port's name (`http2-web`); empty: not said."""
    from fastmesh.model.protocols import LATER, SERVED, folded, name_says

    if not text:
        return ""
    found = SERVED.get(folded(text)) or name_says(text)
    if found == "HTTPS":
        raise argparse.ArgumentTypeError("an application that speaks TLS itself: not implemented yet")
    if found in LATER:
        hint = f" ({LATER[found]})" if LATER[found] else ""
        raise argparse.ArgumentTypeError(f"{found}: not implemented yet{hint}")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is none of http, http2, grpc, tcp, kubernetes.io/h2c")
    return "TCP" if found == "TLS" else found


SERVICE = re.compile(
    r"(?=.{1,253}(?::|$))([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)


def tcp_port(text: str) -> tuple[str, int, str, int]:
    """ "5432=postgres", "127.0.0.1:5432=postgres.default:5432": (address, port, service, its port or 0)."""
    local, equals, service = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: [HOST:]PORT=SERVICE[:PORT] is wanted")
    address, port = options.address(local if ":" in local else f"127.0.0.1:{local}")
    name, colon, number = service.lower().partition(":")
    if not SERVICE.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{name!r} is not the name of a service")
    if colon and not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise argparse.ArgumentTypeError(f"{number!r} is not a port")
    return address, port, name, int(number) if colon else 0


def state_directory(wanted: str) -> tuple[str, bool]:
    """(directory, whether it ends with the proxy). One that cannot be made is only a warning: the agent says
    so again for each file that it cannot write, and serves."""
    if not wanted:
        return tempfile.mkdtemp(prefix="fastmesh-"), True
    path = os.path.abspath(wanted)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        options.fail(f"warning: --state {path}: {error.strerror}; nothing will be kept")
    return path, False


def read_bundle(path: str) -> dict[str, Any]:
    """The bundle as parsed; ValueError says what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            bundle = json.load(file)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except ValueError:
        raise ValueError("not a join bundle: no JSON") from None
    if not isinstance(bundle, dict):
        raise ValueError("not a join bundle: no JSON object")
    missing = [name for name in BUNDLE if not isinstance(bundle.get(name), str) or not bundle[name]]
    if missing:
        raise ValueError(f"not a join bundle: {', '.join(missing)} missing")
    # ZeroMQ would take these up only in the agent, where nobody is left to be told.
    forms = {"server_key": KEY, "control": ADDRESS, "updates": ADDRESS}
    wrong = [name for name, form in forms.items() if not form.fullmatch(bundle[name])]
    if wrong:
        raise ValueError(f"not a join bundle: {', '.join(wrong)} cannot be used")
    return bundle
