"""The run: rounds over scenarios over peers, interleaved; the result as JSON in bench/results and as a table.

Owns: the command line and the order of measuring. Must not know: how a scenario measures, what the bars are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from bench import backends, build, certs, compare, load, machine, peers, procs
from bench.change import CHANGE
from bench.mesh import Sidecar
from bench.pick import PICK
from bench.policy import POLICY
from bench.push import PUSH
from bench.scenarios import (
    ALONE,
    ANY,
    CHAIN_OF,
    MULTIPLEXED,
    SCENARIOS,
    Bench,
    Row,
    Scenario,
    Settings,
    direct,
    measure,
)

RESULTS = Path(__file__).resolve().parent / "results"
FORMAT = 1  # of the result file
EVERY: dict[str, dict[str, Scenario]] = {
    **SCENARIOS,
    "policy": POLICY,
    "pick": PICK,
    "push": PUSH,
    "change": CHANGE,
}
# Whom a scenario measures, where not all.
ONLY = {**dict.fromkeys(ALONE, ("fastmesh",)), "policy": ("fastmesh", "envoy")}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures fastmesh beside HAProxy, nginx, Envoy and the C floor, in interleaved rounds.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round of everything, under 3 minutes")
    parser.add_argument("--scenario", action="append", choices=list(EVERY), help="only this one; repeatable")
    parser.add_argument(
        "--peer", action="append", choices=list(peers.NAMES), help="only this one; repeatable"
    )
    parser.add_argument("--rounds", type=int, help="rounds (default 4, quick 1)")
    parser.add_argument("--seconds", type=float, help="length of a measured window (default 3, quick 1)")
    parser.add_argument("--fastmesh", type=Path, help="executable (default .venv/bin/fastmesh, else PATH)")
    parser.add_argument("--before", type=Path, help="another build's executable, for the scenario change")
    parser.add_argument("--proxy-core", type=int, help="core of the proxies (default: the first usable)")
    parser.add_argument("--load-core", type=int, help="core of load and backend (default: the second usable)")
    parser.add_argument("--no-repeat", action="store_true", help="do not measure disturbed rows again")
    parser.add_argument("--check-load", action="store_true", help="only compare our load generator with wrk")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--save", type=Path, help="result file (default bench/results/TIME-COMMIT.json)")
    return parser.parse_args(argv)


def _settings(args: argparse.Namespace) -> Settings:
    proxy, other = procs.cores()
    return Settings(
        seconds=args.seconds or (1.0 if args.quick else 3.0),
        warm=0.2 if args.quick else 0.5,
        turns=2 if args.quick else Settings.turns,
        proxy_core=proxy if args.proxy_core is None else args.proxy_core,
        load_core=other if args.load_core is None else args.load_core,
        repeats=0 if args.quick or args.no_repeat else 1,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _row_line(row: Row) -> str:
    if row.status != "ok":
        return f"{row.status}: {row.error}"
    shown = (
        *("cpu_us", "per_second", "busy", "added_p50"),
        *("added_p99", "pss_mb", "idle_bytes", "stream_bytes", "ratio"),
    )
    text = "  ".join(f"{name} {row.figures[name]:,.1f}" for name in shown if name in row.figures)
    return text + ("  (disturbed)" if row.disturbed else "")


def _rounds(bench: Bench, args: argparse.Namespace, rounds: int, rows: list[Row]) -> None:
    chosen = args.scenario or [name for name in EVERY if name != "change" or args.before]
    field = [peers.make(name, args.fastmesh) for name in (args.peer or peers.DEFAULT)]
    nghttpx = peers.make("nghttpx")
    for number in range(1, rounds + 1):
        turn = (number - 1) % len(field)
        order = field[turn:] + field[:turn]  # no peer is always the first after a pause
        for scenario in chosen:
            if scenario == "rate":
                rows.append(direct(bench, number))
            for peer in order if args.peer or scenario not in MULTIPLEXED else [*order, nghttpx]:
                if peer.name not in ONLY.get(scenario, (peer.name,)):
                    continue
                measured = Sidecar(args.fastmesh) if ALONE.get(scenario) == "sidecar" else peer
                for name, function in EVERY[scenario].items():
                    chain = peers.CHAINS.get(CHAIN_OF.get(name, ""), ANY)
                    if not all(peer.speaks(hop) for hop in chain.hops):
                        continue
                    row = measure(bench, name, function, measured, number)
                    rows.append(row)
                    _say(f"round {number}/{rounds}  {name:<12} {measured.name:<9} {_row_line(row)}")


def _check_load(bench: Bench, seconds: float) -> int:
    """Our generator against wrk, in turns, in closed loop through the floor: both must find the same."""
    floor = peers.make("floor")
    with bench.proxy(floor, "plain") as (running, _notes):
        target = bench.target(running, floor)
        for _turn in range(3):
            for name, generate in (("wrk", load.wrk), ("load", load.closed)):
                row = Row("check-load", name, _turn)
                result, cpu = bench.window(row, running, partial(generate, target, seconds, 16))
                latency = "  ".join(f"{key} {result.latency[key]:.0f}" for key in ("p50", "p90", "p99"))
                cost = cpu / result.answered
                print(f"{name:<5} {result.per_second:9,.0f}/s  {latency} us  floor {cost:.1f} us CPU")
    return 0


def _save(document: dict[str, object], path: Path | None) -> Path:
    if path is None:
        commit = str(machine.describe()["commit"])[:10]
        path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{commit}.json"
        while path.exists():
            path = path.with_name(f"{path.stem}+.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)  # so that every proxy is stopped on the way out


def main(argv: Sequence[str]) -> int:
    args = _arguments(argv)
    settings = _settings(args)
    rounds = args.rounds or (1 if args.quick else 4)
    signal.signal(signal.SIGTERM, _terminated)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        build.build_all()
    except build.BuildError as problem:
        _say(f"bench: {problem}")
        return 2
    os.sched_setaffinity(0, {settings.load_core})
    begun, about = time.monotonic(), machine.describe()
    rows: list[Row] = []
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="fastmesh-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with backends.started(directory, settings.load_core) as behind:
            bench = Bench(directory, certs.make(directory / "certs"), behind, settings)
            bench.before = args.before
            if args.check_load:
                return _check_load(bench, settings.seconds)
            try:
                _rounds(bench, args, rounds, rows)
            except KeyboardInterrupt:
                _say("bench: interrupted; what was measured so far:")
                interrupted = True
    field = [peers.make(name, args.fastmesh) for name in (args.peer or peers.DEFAULT)]
    document: dict[str, object] = {
        "format": FORMAT,
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "took_seconds": round(time.monotonic() - begun, 1),
        "machine": about,
        "settings": {**settings.__dict__, "rounds": rounds, "quick": args.quick},
        "versions": {peer.name: peer.version() for peer in field if peer.find() is not None},
        "rows": [row.asdict() for row in rows],
    }
    saved = _save(document, args.save)
    if args.output == "json":
        print(json.dumps(document, indent=1))
    else:
        print(compare.render(document))
    _say(f"\nsaved {saved}")
    return 130 if interrupted else 1 if any(row.status == "FAILED" for row in rows) else 0
