"""Options that `fastmesh edge` and `fastmesh sidecar` share, and how they become the proxy's spec."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from fastmesh.supervisor.cpus import usable
from fastmesh.supervisor.spec import search_path

if TYPE_CHECKING:
    from fastmesh.supervisor.spec import Spec

# A reload can need as many rows again, and shared memory has 64.
MAX_WORKERS = 32
# Ends as soon as the last request and connection have ended; below Kubernetes' 30 s of grace, so that what is
# left is closed in order and not by SIGKILL.
DRAIN_SECONDS = 20.0


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, [IPV6]:PORT or PORT (then 127.0.0.1)."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or not 0 < int(port) < 65536 or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def local_address(text: str) -> tuple[str, int] | None:
    return None if text == "off" else address(text)


def workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_WORKERS}")
    return int(text)


def seconds(text: str) -> float:
    """A duration: 20, 20s, 500ms, 1m."""
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(suffix):
            try:
                value = float(text.removesuffix(suffix)) * factor
            except ValueError:
                break
            if 0 <= value <= 86400:
                return value
            break
    raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 20s or 1m")


def limit(text: str) -> tuple[str, int]:
    """NAME=N, a limit of the workers; `help` lists them."""
    from fastmesh._core.proxy.worker import OPTIONS

    if text == "help":
        for name, (default, why) in OPTIONS.items():
            print(f"{name}={default}  {why}")
        raise SystemExit(0)
    name, _, value = text.partition("=")
    if name not in OPTIONS:
        raise argparse.ArgumentTypeError(f"{name!r} is no limit; known: {', '.join(OPTIONS)}")
    if not value.isdecimal() or not 0 < int(value) < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=N with a whole number above 0 is wanted")
    return name, int(value)


def place(text: str) -> str:
    """region/zone/subzone, or the first parts of it; empty: not said."""
    from fastmesh.model.problems import Origin, Reporter
    from fastmesh.model.schema_locality import locality

    reporter = Reporter(Origin(), [])
    if text:
        locality(text, reporter)
    if reporter.problems:
        raise argparse.ArgumentTypeError(reporter.problems[0].message)
    return text


def add_locality(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--locality",
        type=place,
        default=os.environ.get("FASTMESH_LOCALITY", ""),
        metavar="PLACE",
        help="where the proxy runs, region/zone/subzone: nearer endpoints first (default FASTMESH_LOCALITY)",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """What every proxy takes."""
    add_locality(parser)
    parser.add_argument(
        "--admin",
        type=local_address,
        default=("127.0.0.1", 15000),
        metavar="HOST:PORT",
        help="admin endpoint; 'off' for none (default 127.0.0.1:15000)",
    )
    parser.add_argument(
        "--drain-time",
        type=seconds,
        default=DRAIN_SECONDS,
        metavar="TIME",
        help=f"how long requests in flight may take after TERM (default {DRAIN_SECONDS:g}s)",
    )
    parser.add_argument(
        "--limit",
        type=limit,
        action="append",
        default=[],
        metavar="NAME=N",
        help="a limit of each worker, such as header_timeout_ms=10000; repeatable; '--limit help' lists them",
    )
    parser.add_argument(
        "--access-log", default="off", metavar="PATH", help="a file, '-' for stdout, 'off' (default)"
    )
    parser.add_argument(
        "--access-log-format", choices=("text", "json"), default="text", help="default text (Envoy's)"
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of what is written to stderr"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def common_spec(args: argparse.Namespace, role: str, node_id: str) -> Spec:
    """The spec with all that both roles have."""
    access_log = args.access_log
    return {
        "role": role,
        "node_id": node_id,
        "argv": ["fastmesh", *sys.argv[1:]],
        "path": search_path(),
        "workers": args.concurrency,
        "file": "",
        "locality": "",
        "admin": args.admin,
        "drain_time": args.drain_time,
        "state": "",
        "ephemeral": False,
        "access_log": access_log if access_log in ("-", "off") else os.path.abspath(access_log),
        "access_log_format": args.access_log_format,
        "log_format": args.log_format,
        "log_level": args.log_level,
        "options": dict(args.limit),
    }


def default_workers() -> int:
    return min(usable(), MAX_WORKERS)


def fail(message: str, status: int = 2) -> int:
    """One line on stderr; the exit status."""
    print(f"fastmesh: {message}", file=sys.stderr)
    return status
