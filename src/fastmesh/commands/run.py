"""`fastmesh run`: one command that runs an application in the mesh, with the sidecar beside it."""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

from fastmesh.commands import options, sidecar

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

JOIN = "FASTMESH_JOIN"
START_SECONDS, DRAIN_SECONDS, GRACE_SECONDS = 60.0, 5.0, 30.0
EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND = 126, 127
LOCAL = ("localhost", "127.0.0.1", "::1")
# A job has no port: nobody is ever told of it, and what comes all the same finds the port of "discard"
# closed.
NO_PORT = 9

EXAMPLE = """
The application starts when the sidecar is ready; others are told of it when it accepts connections on
--app-port. It gets http_proxy, HTTP_PROXY and no_proxy, so that http://SERVICE/ goes through the mesh.
Signals are passed on; TERM and INT after the workload has left the lists. The sidecar stays until the
application is gone.

exit status: the application's (128+N: killed by signal N); 125 the sidecar cannot start, 126 the command
cannot be executed, 127 it is not found, 2 wrong usage.

examples:
  fastmesh run --join join.json --service reviews --app-port 9080 -- python app.py
  fastmesh run --join join.json --service report -- python nightly.py      # a job, which serves nobody
"""


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run an application in the mesh",
        usage="fastmesh run [options] --service NAME -- COMMAND [ARGUMENT ...]",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", nargs="+", metavar="COMMAND", help="the application, after '--'")
    parser.add_argument("--service", required=True, metavar="NAME", help="the service that it belongs to")
    parser.add_argument(
        "--join",
        default=os.environ.get(JOIN, ""),
        metavar="BUNDLE",
        help=f"the join bundle (a file; default: ${JOIN})",
    )
    parser.add_argument(
        "--app-port",
        type=options.address,
        default=None,
        metavar="PORT",
        help="where the application listens (PORT or HOST:PORT); without it nobody is told of it",
    )
    parser.add_argument(
        "--start-timeout",
        type=options.seconds,
        default=START_SECONDS,
        metavar="TIME",
        help=f"for the sidecar to be ready (default {START_SECONDS:g}s)",
    )
    parser.add_argument(
        "--drain",
        type=options.seconds,
        default=DRAIN_SECONDS,
        metavar="TIME",
        help="how long requests to the application may take after TERM before it gets the signal "
        f"(default {DRAIN_SECONDS:g}s; 0: it gets it at once)",
    )
    parser.add_argument(
        "--grace",
        type=options.seconds,
        default=GRACE_SECONDS,
        metavar="TIME",
        help=f"after the signal, how long until the application is killed (default {GRACE_SECONDS:g}s)",
    )
    parser.add_argument(
        "--no-proxy-env", action="store_true", help="leave http_proxy and no_proxy of the application alone"
    )
    sidecar.add_options(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    if not args.join:
        return options.fail(f"--join or ${JOIN} is needed: what `fastmesh token create` prints")
    if args.app_health and args.app_port is None:
        return options.fail("--app-health needs --app-port")
    if shutil.which(args.program[0]) is None:
        if os.path.exists(args.program[0]) and os.sep in args.program[0]:
            return options.fail(f"{args.program[0]}: cannot be executed", EXIT_CANNOT_EXECUTE)
        return options.fail(f"{args.program[0]}: not found", EXIT_NOT_FOUND)
    gate = "never" if args.app_port is None else args.app_health or "connect"
    try:
        spec = sidecar.sidecar_spec(args, args.app_port or ("127.0.0.1", NO_PORT), gate)
    except ValueError as error:
        return options.fail(str(error))
    environ = dict(os.environ)
    if not args.no_proxy_env:
        environ.update(proxy_environment(environ, args.outbound))
    spec["run"] = {
        "command": args.program,
        "environ": environ,
        "start_timeout": args.start_timeout,
        "drain": args.drain,
        "grace": args.grace,
        "ephemeral": spec["ephemeral"],
    }
    spec["ephemeral"] = False
    from fastmesh.supervisor.spec import launch

    launch(spec)


def proxy_environment(given: dict[str, str], outbound: tuple[str, int]) -> dict[str, str]:
    """What has clients send their http:// requests to the sidecar. Not https_proxy: the outbound port takes
    no CONNECT, and TLS that the application speaks itself is its own."""
    host, port = outbound
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    before = given.get("no_proxy") or given.get("NO_PROXY") or ""
    names = [name.strip() for name in before.split(",") if name.strip()]
    direct = ",".join([*names, *(name for name in LOCAL if name not in names)])
    return {"http_proxy": url, "HTTP_PROXY": url, "no_proxy": direct, "NO_PROXY": direct}
