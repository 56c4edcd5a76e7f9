"""What the commands that talk to a control plane share: finding it, exit statuses, output.

Owns the options --control, --token-file, --state, -o; knows no command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastmesh.client import DEFAULT_URL, ApiError, Client, Unreachable

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

OK, FAILED, USAGE, UNREACHABLE, LATE = 0, 1, 2, 3, 4

FINDING = """
The control plane is found by --state DIR (on its own machine), or by --control URL and --token-file FILE, or
by the environment: FASTMESH_CONTROL, FASTMESH_TOKEN_FILE, FASTMESH_STATE.
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 control plane not reached, 4 waited in vain.
"""


class UsageError(Exception):
    """The command line asks for what cannot be."""


def add_command(subparsers: Subparsers, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A subcommand with the options that all of them have."""
    parser = subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"{FINDING}\nexample:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection(parser)
    return parser


def add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("control plane")
    group.add_argument("--control", metavar="URL", help=f"its HTTP API (default {DEFAULT_URL})")
    group.add_argument("--token-file", metavar="FILE", help="holds the API's bearer token")
    group.add_argument("--state", metavar="DIR", help="its state directory, which holds both")


def add_namespace(parser: argparse.ArgumentParser, all_: bool = False) -> None:
    parser.add_argument("-n", "--namespace", default="default", metavar="NAME", help="default 'default'")
    if all_:
        parser.add_argument("-A", "--all-namespaces", action="store_true")


def add_output(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=formats, default=formats[0], help="format (default %(default)s)"
    )


def connect(args: argparse.Namespace) -> Client:
    """The client that options and environment name; UsageError when they do not say enough."""
    environ = os.environ
    state = args.state
    if not state and not args.control and not args.token_file:
        state = environ.get("FASTMESH_STATE") if "FASTMESH_CONTROL" not in environ else None
    try:
        if state:
            client = Client.from_state(state)
            return Client(args.control, client.token) if args.control else client
        token_file = args.token_file or environ.get("FASTMESH_TOKEN_FILE")
        if not token_file:
            raise UsageError(
                "say where the control plane is: --state DIR, or --control URL --token-file FILE"
            )
        with open(token_file, encoding="utf-8") as file:
            token = file.read().strip()
        return Client(args.control or environ.get("FASTMESH_CONTROL") or DEFAULT_URL, token)
    except FileNotFoundError as error:
        hint = f": has `fastmesh control --state {state}` been started?" if state else ""
        raise UsageError(f"{error.filename}: no such file{hint}") from None
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def guarded(work: Callable[[], int]) -> int:
    """Run a command's work; errors become one line on stderr (or one a problem) and an exit status."""
    try:
        return work()
    except UsageError as error:
        return fail(str(error), USAGE)
    except Unreachable as error:
        return fail(str(error), UNREACHABLE)
    except ApiError as error:
        for line in [p["text"] for p in error.problems] or [str(error)]:
            fail(line, FAILED)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `| head` has seen enough
        return FAILED


def fail(message: str, status: int) -> int:
    print(f"fastmesh: {message}", file=sys.stderr)
    return status


def show(data: Any, output: str) -> None:
    """Print as JSON or YAML."""
    if output == "yaml":
        import yaml

        print(yaml.safe_dump(data, sort_keys=False), end="")
    else:
        print(json.dumps(data, indent=2))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print aligned columns with a heading."""
    lines = [[str(cell) for cell in row] for row in [list(columns), *rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def age(since: float) -> str:
    """A time span as people say it: 12s, 5m, 3h, 2d."""
    return span(time.time() - since)


def span(seconds: float) -> str:
    seconds = int(seconds)
    if seconds < 0:
        return f"-{span(-seconds)}"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def duration(text: str) -> float:
    """Seconds: 90, 90s, 15m, 24h, 7d."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        value = float(number) * unit
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90s, 15m, 24h or 7d")
    return value


def read_files(paths: list[str]) -> list[tuple[str, str]]:
    """(name, text) of files, of the .yaml, .yml and .json files of directories, of stdin ("-")."""
    found: list[tuple[str, str]] = []
    for path in paths:
        if path == "-":
            found.append(("<stdin>", sys.stdin.read()))
            continue
        names = [path]
        if os.path.isdir(path):
            names = [
                os.path.join(path, name)
                for name in sorted(os.listdir(path))
                if name.endswith((".yaml", ".yml", ".json"))
            ]
            if not names:
                raise UsageError(f"{path}: holds no .yaml, .yml or .json file")
        for name in names:
            try:
                with open(name, encoding="utf-8") as file:
                    found.append((name, file.read()))
            except OSError as error:
                raise UsageError(f"{name}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise UsageError(f"{name}: is not UTF-8") from None
    return found


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", action="store_true", help="return when every live worker of every proxy serves the change"
    )
    parser.add_argument(
        "--timeout", type=duration, default=30.0, metavar="TIME", help="of --wait (default 30s)"
    )


def wait(client: Client, version: int, timeout: float, quiet: bool = False) -> int:
    """Wait until all proxies serve a version, and say what came of it; the exit status."""
    began = time.monotonic()
    outcome = client.wait(version, timeout)
    for proxy, topics in outcome["refused"].items():
        for topic, reason in topics.items():
            fail(f"{proxy} refuses {topic}: {reason}", FAILED)
    if outcome["refused"]:
        return FAILED
    if not outcome["done"]:
        for proxy, topics in outcome["late"].items():
            fail(f"{proxy} is late: {', '.join(topics[:5])}{' ...' if len(topics) > 5 else ''}", LATE)
        return fail(f"not all proxies serve version {version} after {timeout:g} s", LATE)
    if not quiet:
        taken = (time.monotonic() - began) * 1000
        print(f"version {version} is served by all workers of {outcome['proxies']} proxies ({taken:.0f} ms)")
    return OK
