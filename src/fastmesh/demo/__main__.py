"""`python -m fastmesh.demo`: the steps one after the other; exit status 0, or 1 if a check did not hold.

On a terminal the mesh then stays up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import sys
import time

from fastmesh.client import ApiError, Unreachable
from fastmesh.demo import steps
from fastmesh.demo.mesh import Mesh, Trouble
from fastmesh.demo.screen import CYAN, GREEN, RED, Screen

EPILOG = "Exit status: 0 everything that was shown held, 1 something did not, 130 interrupted."


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m fastmesh.demo",
        description="A mesh on this machine: real processes, real traffic, every claim checked.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--requests", type=positive, default=2000, metavar="N", help="per measurement (default 2000)"
    )
    parser.add_argument(
        "--without",
        choices=("v1", "v2"),
        default="",
        help="leave this version of reviews out, to see what checks that do not hold look like",
    )
    parser.add_argument("--stay", action="store_true", help="keep the mesh up at the end, as on a terminal")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    if not text.isdecimal() or not 100 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 100 to 1000000")
    return int(text)


def stop(number: int, frame: object) -> None:
    """TERM and HUP end the demo as Ctrl-C does, also where a shell started it with INT ignored."""
    raise KeyboardInterrupt


def show(screen: Screen, mesh: Mesh, requests: int) -> bool:
    """All steps; one that breaks off is a failed check. False: there is no mesh that could be shown."""
    for step in steps.ALL:
        title = (step.__doc__ or "").splitlines()[0].rstrip(".")
        screen.step(title)
        try:
            step(screen, mesh, requests)
        except (Trouble, ApiError, Unreachable, OSError, http.client.HTTPException) as error:
            screen.check(False, title.partition(":")[0], str(error) or type(error).__name__)
            if step is steps.start:
                return False
    return True


def stay(screen: Screen, mesh: Mesh) -> None:
    screen.line(f"\nThe mesh stays up until {screen.paint('Ctrl-C', CYAN)}. Try, from another terminal:\n")
    fastmesh = f"{sys.executable.rpartition('/')[0]}/fastmesh"
    for command, about in (
        (f"curl http://127.0.0.1:{mesh.web.app}/", "web, which calls reviews"),
        (f"curl -H 'Host: reviews' http://127.0.0.1:{mesh.web.outbound}/", "as web calls it"),
        (f"curl http://127.0.0.1:{mesh.web.admin}/metrics", "or /stats, /clusters, /certs, /config_dump"),
        (f"export FASTMESH_STATE={mesh.state}", ""),
        (f"{fastmesh} proxy-status", "what each proxy serves"),
        (f"{fastmesh} get virtualservice reviews -o yaml", ""),
    ):
        screen.line(f"    {command:<54}{'# ' if about else ''}{about}".rstrip())
    while True:
        time.sleep(3600)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    screen = Screen(len(steps.ALL))
    began = time.monotonic()
    staying = False
    try:
        with Mesh(screen.command, args.without) as mesh:
            screen.line(steps.PICTURE)
            up = show(screen, mesh, args.requests)
            taken = time.monotonic() - began
            if screen.failed:
                screen.line(
                    f"\n{screen.paint('FAIL', RED)}  {len(screen.failed)} of "
                    f"{len(screen.failed) + screen.passed} checks did not hold ({taken:.0f} s)"
                )
                screen.info("\n".join(mesh.complaints()))
            else:
                screen.line(f"\n{screen.paint('ok', GREEN)}  all {screen.passed} checks held ({taken:.0f} s)")
            if up and (args.stay or screen.terminal):
                staying = True
                stay(screen, mesh)
    except KeyboardInterrupt:
        screen.line("\nstopped: no process is left")
        if not staying:
            return 130
    return 1 if screen.failed else 0


if __name__ == "__main__":
    sys.exit(main())
