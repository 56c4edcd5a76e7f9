"""`python -m fastmesh.demo`, run by `make demo`: what it claims holds, what does not hold is told, nothing is
left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmesh.demo.screen import Screen
from fastmesh.demo.traffic import binomial_bounds, percentile
from helpers import Process, wait_for

DEMO = ["python", "-m", "fastmesh.demo"]
SECONDS = 100.0


def started(demo: Process) -> set[int]:
    """The ids of all processes that a demo has told of."""
    table = re.findall(r"^ +(?:web|reviews)-v\d((?: +\d+){4}) ", demo.stdout, re.M)
    return {int(pid) for row in table for pid in row.split()}


def gone(pids: set[int]) -> bool:
    def there(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    return not any(map(there, pids))


def run(spawn: Callable[..., Process], tmp_path: Path, *options: str) -> tuple[int, Process]:
    """Its exit status, and what it said; nothing of it may be left."""
    demo = spawn([*DEMO, *options], name="demo", env={"TMPDIR": str(tmp_path)})
    status = demo.wait(SECONDS)
    pids = started(demo)
    assert len(pids) >= 8
    wait_for(lambda: gone(pids), what="the end of all processes")
    assert not list(tmp_path.glob("fastmesh-*")), "files are left"
    return status, demo


def test_everything_that_is_shown_holds(spawn: Callable[..., Process], tmp_path: Path) -> None:
    status, demo = run(spawn, tmp_path)
    text = demo.stdout
    assert status == 0, text
    assert "FAIL" not in text and "\x1b" not in text
    assert re.findall(r"^\[(\d)/9\]", text, re.M) == list("123456789")
    for line in (
        r"web-v1 +spiffe://cluster\.local/ns/default/sa/web$",
        r"reviews-v2 +spiffe://cluster\.local/ns/default/sa/reviews$",
        r'connection_security_policy="mutual_tls"',
        r"^  ok  plaintext to the inbound port is refused",
        r"^  ok  your trace id went through both sidecars",
        r"^  ok  \d+ calls over one connection of the client: a \d+, b \d+$",
        r"^  ok  a call that ends with DEADLINE_EXCEEDED$",
        r"^    \$ fastmesh apply -f canary\.yaml --wait$",
        r"^  ok  measured: v1 \d+, v2 \d+ = [\d.]+% for 5%",
        r"^  ok  measured: v1 \d+, v2 \d+ = [\d.]+% for 50%",
        r"^  ok  measured: v1 0, v2 500 = 100\.00% for 100%",
        r"^  ok  \d+ requests in [\d.]+ s without it, none failed$",
        r"^ +added by a hop +-?\d+ +-?\d+$",
        r"^ok  all \d+ checks held",
    ):
        assert re.search(line, text, re.M), f"{line} in\n{text}"


def test_what_does_not_hold_is_told_and_ends_with_1(spawn: Callable[..., Process], tmp_path: Path) -> None:
    """Without reviews v2 there is nobody to take the canary's share."""
    status, demo = run(spawn, tmp_path, "--without", "v2", "--requests", "400")
    assert status == 1
    assert re.search(r"^FAIL  400 requests answered: \d+ x 503", demo.stdout, re.M), demo.stdout
    assert re.search(r"^FAIL  measured: v1 \d+, v2 0 ", demo.stdout, re.M)
    assert re.search(r"^  ok  your trace id went through both sidecars", demo.stdout, re.M)
    assert re.search(r"^FAIL  \d+ of \d+ checks did not hold", demo.stdout, re.M)


def test_it_stays_when_asked_until_it_is_stopped(spawn: Callable[..., Process], tmp_path: Path) -> None:
    demo = spawn([*DEMO, "--stay", "--requests", "100"], name="demo", env={"TMPDIR": str(tmp_path)})
    demo.wait_output("stays up until Ctrl-C", SECONDS)
    url = demo.wait_output(r"curl (http://127\.0\.0\.1:\d+/) +# web").group(1)
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.load(answer)["reviews"]["version"] == "v2"
    pids = started(demo)
    assert not gone(pids)
    demo.signal(signal.SIGTERM)
    assert demo.wait(20) == 0, demo.stdout
    wait_for(lambda: gone(pids), what="the end of all processes")
    assert not list(tmp_path.glob("fastmesh-*")), "files are left"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_it(spawn: Callable[..., Process], tmp_path: Path, number: int) -> None:
    """Stopped in the middle; killed, so that it cannot clean up itself."""
    demo = spawn(DEMO, name="demo", env={"TMPDIR": str(tmp_path)})
    demo.wait_output(r"^\[3/9\]", SECONDS)
    pids = started(demo)
    assert not gone(pids)
    demo.signal(number)
    assert demo.wait(20) == (130 if number == signal.SIGINT else -number)
    wait_for(lambda: gone(pids), 20, what="the end of all processes")


def test_colour_and_progress_are_for_terminals(capfd: pytest.CaptureFixture[str]) -> None:
    """The same calls on a pseudo terminal and into a file."""

    def show(screen: Screen) -> None:
        screen.step("A step")
        screen.progress("half of it")
        screen.check(True, "held")
        screen.check(False, "did not hold", "because")

    screen = Screen(1)
    show(screen)
    plain = capfd.readouterr().out
    assert plain == "\n[1/1] A step\n  ok  held\nFAIL  did not hold: because\n"
    assert (screen.passed, screen.failed) == (1, ["did not hold"])
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.environ.pop("NO_COLOR", None)
            os.environ["TERM"] = "xterm"
            import sys

            sys.stdout = os.fdopen(1, "w", closefd=False)
            show(Screen(1))
        finally:
            os._exit(0)
    shown = b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            part = os.read(fd, 4096)
        except OSError:
            break
        shown += part
    os.close(fd)
    os.waitpid(pid, 0)
    assert b"half of it" in shown and b"\x1b[32mok\x1b[0m  held" in shown
    assert b"\x1b[31mFAIL\x1b[0m  did not hold: because" in shown


def test_the_bounds_of_a_split() -> None:
    low, high = binomial_bounds(2000, 0.05)
    assert low < 100 < high and low > 40 and high < 165
    wider = binomial_bounds(2000, 0.05, 1e-9)
    assert wider[0] < low and wider[1] > high
    assert binomial_bounds(500, 1.0) == (500, 500) and binomial_bounds(500, 0.0) == (0, 0)
    assert binomial_bounds(2, 0.5) == (0, 2)


def test_percentiles_by_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50 and percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
