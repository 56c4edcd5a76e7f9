"""`fastmesh explain`: what one request would get, and why, of a file or of a running proxy."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from fastmesh.commands import options

if TYPE_CHECKING:
    from fastmesh.agent.explain import Question

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

OK, NOT_SERVED, USAGE, UNREACHABLE = 0, 1, 2, 3
TIMEOUT_SECONDS = 10.0

EPILOG = """
The request goes through the parser, the matcher and the phases of an exchange that the proxy's workers run,
up to where an endpoint would be chosen, and is sent to nobody. Without -f it is asked of a running proxy
(--admin), which also tells how its endpoints do. By which listener it comes: a sidecar's outbound one; of an
edge the one at the URL's port, else the only one of its scheme; or as --listener, --port or --inbound say.

Exit status: 0 a route answers the request or it would be sent to an endpoint, 1 it would be refused
(malformed, no route, no cluster, no healthy endpoint), 2 wrong usage, no such listener or a file that cannot
be used, 3 no proxy answers or it has no config yet.

examples:
  fastmesh explain GET http://reviews:9080/reviews/1 -H 'end-user: jason'
  fastmesh explain -f edge.yaml GET https://shop.example.com/cart
  fastmesh explain -f edge.yaml --port 8080 POST http://shop.example.com/pay -o json
  fastmesh explain --admin 127.0.0.1:15010 --inbound GET http://reviews/
"""


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="tell which route, destination and policy a request would get, and why",
        description="Tell which listener, virtual host, route, destination and policy a request would get.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", metavar="METHOD", help="such as GET")
    parser.add_argument("url", metavar="URL", help="http:// or https://")
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="'NAME: VALUE'", help="repeatable"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-f", "--file", metavar="FILE", help="an edge's config; nothing needs to run")
    where.add_argument(
        "--admin",
        type=options.address,
        default=("127.0.0.1", 15000),
        metavar="HOST:PORT",
        help="of the proxy that is asked (default 127.0.0.1:15000)",
    )
    options.add_locality(parser)
    by = parser.add_mutually_exclusive_group()
    by.add_argument("--listener", default="", metavar="NAME", help="by which it comes")
    by.add_argument("--port", type=port, default=0, metavar="N", help="of the listener by which it comes")
    by.add_argument("--inbound", action="store_true", help="it comes from a peer, not from the application")
    parser.add_argument(
        "--principal",
        default="",
        metavar="ID",
        help="of the peer, for authorization: spiffe://cluster.local/ns/default/sa/web, or without spiffe://",
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="format (default %(default)s)"
    )


def port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


class Failed(Exception):
    """Why there is no answer, and the exit status."""

    def __init__(self, status: int, *reasons: str) -> None:
        super().__init__(*reasons)
        self.status = status


def run(args: argparse.Namespace) -> int:
    try:
        found = of_file(args) if args.file is not None else of_proxy(args)
    except Failed as failed:
        for reason in failed.args:
            options.fail(reason)
        return failed.status
    try:
        if args.output == "json":
            print(json.dumps(found, indent=2))
        else:
            from fastmesh.commands.explained import Text

            print(Text(sys.stdout.isatty()).of(found), end="")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `| head` has seen enough
    return OK if found["served"] else NOT_SERVED


def question_of(args: argparse.Namespace) -> Question:
    from fastmesh.agent import explain

    try:
        return explain.Question(
            args.method,
            args.url,
            args.header,
            listener=args.listener,
            port=args.port,
            inbound=args.inbound,
            principal=args.principal,
        )
    except explain.Usage as error:
        raise Failed(USAGE, str(error)) from None


def of_file(args: argparse.Namespace) -> dict[str, Any]:
    """Of a file, compiled as `fastmesh edge --check` does."""
    from fastmesh.agent import explain

    question = question_of(args)
    try:
        config = compiled(args.file, args.locality)
        names = set_addresses(config)
        return name_addresses(explain.ask(packed(config), question, config), names)
    except explain.Usage as error:
        raise Failed(USAGE, str(error)) from None


def compiled(file: str, locality: str = "") -> Any:
    import msgpack

    from fastmesh.supervisor.channel import read_all
    from fastmesh.supervisor.compiler import Compilation
    from fastmesh.supervisor.log import Log

    if not os.path.isfile(file):
        raise Failed(USAGE, f"{file}: {'not a file' if os.path.exists(file) else 'no such file'}")
    compilation = Compilation(file, "explain", locality, Log("explain"), lambda: None)
    result = compilation.result(os.waitpid(compilation.pid, 0)[1])
    if result.errors:
        raise Failed(USAGE, *result.errors)
    try:
        return msgpack.unpackb(read_all(result.fd))
    finally:
        os.close(result.fd)


def packed(config: Any) -> bytes:
    from fastmesh._core.shm.segment import SnapshotError
    from fastmesh.compile.cells import CellMap
    from fastmesh.compile.snapshot import pack

    try:
        return pack(config, CellMap())
    except SnapshotError as error:
        raise Failed(USAGE, str(error)) from None


def set_addresses(config: Any) -> dict[str, str]:
    """Names of endpoints are resolved by a proxy that serves; here each gets an address that nobody has
    (class E), so that nothing is asked of DNS. Address -> name."""
    from fastmesh.model.formats import is_ip

    names: dict[str, str] = {}
    for cluster in config["clusters"]:
        for endpoint in cluster["endpoints"]:
            if not is_ip(endpoint["address"]):
                n = len(names) + 1
                address = f"240.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
                names[f"{address}:{endpoint['port']}"] = f"{endpoint['address']}:{endpoint['port']}"
                endpoint["address"] = address
    return names


def name_addresses(found: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    for dest in found.get("action", {}).get("destinations", ()):
        for endpoint in dest["cluster"]["endpoints"] if dest["cluster"] else ():
            endpoint["address"] = names.get(endpoint["address"], endpoint["address"])
    return found


def of_proxy(args: argparse.Namespace) -> dict[str, Any]:
    """Of a running proxy, by its admin endpoint."""
    import http.client
    from urllib.parse import quote

    question_of(args)  # what cannot be asked is told without a proxy
    query = {
        "method": args.method,
        "url": args.url,
        "header": "\n".join(args.header),
        "listener": args.listener,
        "port": str(args.port or ""),
        "inbound": "1" if args.inbound else "",
        "principal": args.principal,
    }
    host, number = args.admin
    pairs = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
    connection = http.client.HTTPConnection(host, number, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/explain?{pairs}")
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", "") or error
        raise Failed(
            UNREACHABLE,
            f"no proxy answers at {host}:{number}: {why}; is it running? Say where its admin endpoint is "
            "with --admin HOST:PORT, or ask an edge's config with -f FILE",
        ) from None
    finally:
        connection.close()
    if answer.status == 200:
        try:
            found: dict[str, Any] = json.loads(body)
            found["served"] = bool(found["served"])
        except (ValueError, TypeError, KeyError):
            raise Failed(
                UNREACHABLE, f"what answers at {host}:{number} is no admin endpoint of fastmesh"
            ) from None
        return found
    if answer.status == 431:
        raise Failed(
            USAGE, "the request is too large to be asked of a running proxy (8 KiB); ask a file with -f"
        )
    if answer.status == 404:
        raise Failed(UNREACHABLE, f"the proxy at {host}:{number} has no /explain: it is of an older version")
    bad = answer.status == 400
    raise Failed(USAGE if bad else UNREACHABLE, body.strip() or f"{host}:{number} says {answer.status}")
