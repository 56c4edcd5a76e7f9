"""Reads results: medians, spread, ratios to fastmesh, and the verdict against each of the project's bars.

Owns: the bars and the tables. Must not know: how a figure was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

OURS = "fastmesh"
DISTURBED_PERCENT = 5.0  # others' share of a core above which a figure is not to be trusted
REAL_PEERS = ("haproxy", "nginx", "envoy", "nghttpx")  # the floor is no peer: it does not proxy HTTP

PICKS = ("random", "round-robin", "least-request", "peak-ewma", "ring-hash", "maglev")


def _against(first: str, one: str, second: str, two: str) -> list[tuple[str, str, int]]:
    """The columns of two that were measured in turns (paired.py)."""
    return [
        (first, f"CPU us, {one}", 1),
        (second, f"CPU us, {two}", 1),
        *(("ratio", "ratio", 3), ("ratio_low", "95 % from", 3), ("ratio_high", "to", 3)),
    ]


CHANGED = _against("cpu_us_before", "before", "cpu_us", "now")

# scenario: (title, [(figure, heading, decimals)])
TABLES: dict[str, tuple[str, list[tuple[str, str, int]]]] = {
    "h1": (
        "HTTP/1.1 keep-alive, 16 connections, 1 KiB",
        [("cpu_us", "CPU us/request", 1), ("per_second", "req/s", 0), ("busy", "core %", 0)],
    ),
    "pair": (
        "two proxies, mTLS, HTTP/1.1 between, 16 connections",
        [("cpu_us", "CPU us/request", 1), ("per_second", "req/s", 0), ("busy", "core %", 0)],
    ),
    "h2-h1": (
        "HTTP/2 (h2c, 4 connections x 32 streams) to HTTP/1.1, 1 KiB",
        [("cpu_us", "CPU us/request", 1), ("per_second", "req/s", 0), ("busy", "core %", 0)],
    ),
    "h2-h2": (
        "HTTP/2 (h2c, 4 connections x 32 streams) to HTTP/2, 1 KiB",
        [("cpu_us", "CPU us/request", 1), ("per_second", "req/s", 0), ("busy", "core %", 0)],
    ),
    "link-16": (
        "two proxies, mTLS, HTTP/2 between, 16 HTTP/1.1 clients (sidecar: the mesh link)",
        [("cpu_us", "CPU us/request", 1), ("per_second", "req/s", 0), ("busy", "core %", 0)],
    ),
    "link-64": (
        "two proxies, mTLS, HTTP/2 between, 64 HTTP/1.1 clients (sidecar: the mesh link)",
        [("cpu_us", "CPU us/request", 1), ("per_second", "req/s", 0), ("busy", "core %", 0)],
    ),
    "rate-direct": (
        "1,000/s without a proxy: latency, us",
        [("p50", "P50", 0), ("p90", "P90", 0), ("p99", "P99", 0), ("p999", "P99.9", 0)],
    ),
    "rate-hop": (
        "1,000/s through one plain hop: added latency, us",
        [
            ("added_p50", "P50", 0),
            ("added_p90", "P90", 0),
            ("added_p99", "P99", 0),
            ("added_p999", "P99.9", 0),
            ("cpu_us", "CPU us/request", 1),
        ],
    ),
    "rate-pair": (
        "1,000/s through a pair with mTLS: added latency per hop, us",
        [
            ("added_p50", "P50", 0),
            ("added_p90", "P90", 0),
            ("added_p99", "P99", 0),
            ("added_p999", "P99.9", 0),
            ("cpu_us", "CPU us/request", 1),
        ],
    ),
    "grpc-rate": (
        "unary gRPC at 1,000/s through one h2c hop: added latency, us",
        [
            ("added_p50", "P50", 0),
            ("added_p90", "P90", 0),
            ("added_p99", "P99", 0),
            ("added_p999", "P99.9", 0),
            ("cpu_us", "CPU us/call", 1),
        ],
    ),
    "large": (
        "1 MiB answers, 16 connections",
        [("cpu_us", "CPU us/MiB", 0), ("per_second", "MiB/s", 0), ("busy", "core %", 0)],
    ),
    "handshake": (
        "TLS 1.3 handshake (P-256) and one request a connection",
        [("cpu_us", "CPU us/handshake", 0), ("per_second", "conn/s", 0), ("busy", "core %", 0)],
    ),
    "memory": (
        "memory of the whole process tree",
        [
            ("pss_mb", "idle PSS MB", 1),
            ("warm_pss_mb", "warm PSS MB", 1),
            ("idle_bytes", "bytes/idle conn", 0),
            ("processes", "processes", 0),
        ],
    ),
    "h2-memory": (
        "memory of HTTP/2: bytes",
        [("idle_bytes", "idle connection", 0), ("stream_bytes", "stream in flight", 0)],
    ),
    "policy": (
        "five headers, retries, outlier detection, breaker, rate limit against plain; 16 connections",
        _against("cpu_us", "plain", "cpu_us_policy", "policy"),
    ),
    "policy-h2": (
        "the same, HTTP/2 (h2c, 4 connections x 32 streams) to HTTP/1.1",
        _against("cpu_us", "plain", "cpu_us_policy", "policy"),
    ),
    **{
        f"pick-{way}": (
            f"choosing one of 10,000 endpoints against one of 10: {way}; ns, met as by a request",
            [
                *(("met_10", "met, 10", 0), ("met_10000", "met, 10,000", 0), ("added", "added", 0)),
                *(("ratio", "ratio", 2), ("whole", "whole request", 3)),
                *(("warm_10", "back to back, 10", 0), ("warm_10000", "10,000", 0)),
            ],
        )
        for way in PICKS
    },
    "push": (
        "1,000/s through two sidecars: latency, us; configs to them, to nobody, to no control plane at all",
        [
            *(("p50_pushed", "P50 pushed", 0), ("p50_quiet", "elsewhere", 0), ("p50_none", "none", 0)),
            *(("p99_pushed", "P99 pushed", 0), ("p99_quiet", "elsewhere", 0), ("p99_none", "none", 0)),
            *(("ratio", "P99 pushed/elsewhere", 3), ("ratio_low", "95 % from", 3), ("ratio_high", "to", 3)),
            *(("ratio_none", "pushed/none", 2), ("pushes", "configs/s", 1)),
        ],
    ),
    "change-h1": ("this build against an earlier one: HTTP/1.1", CHANGED),
    "change-h2-h1": ("this build against an earlier one: HTTP/2 to HTTP/1.1", CHANGED),
    "change-h2-h2": ("this build against an earlier one: HTTP/2 to HTTP/2", CHANGED),
    "change-pair": ("this build against an earlier one: two proxies, mTLS, HTTP/1.1 between", CHANGED),
    "routes": (
        "fastmesh alone: 1 route against 10,000 over 1,000 hosts",
        [("cpu_us", "CPU us, 1", 1), ("cpu_us_10000", "CPU us, 10,000", 1), ("ratio", "ratio", 3)],
    ),
}


@dataclass(frozen=True)
class Bar:
    """fastmesh's figure may be at most factor x the other's, or at most the limit."""

    scenario: str
    figure: str
    text: str
    other: str = ""  # a peer, or "best"
    factor: float = 1.0
    limit: float = 0.0
    ours: str = OURS  # whose figure it is


BARS = (
    Bar("h1", "cpu_us", "HTTP/1.1: CPU <= 1.1 x HAProxy", "haproxy", 1.1),
    Bar("h1", "cpu_us", "HTTP/1.1: CPU <= 0.5 x Envoy", "envoy", 0.5),
    Bar("pair", "cpu_us", "mTLS pair: CPU <= 0.45 x Envoy", "envoy", 0.45),
    Bar("pair", "cpu_us", "mTLS pair: CPU <= 1.1 x HAProxy", "haproxy", 1.1),
    Bar("h2-h1", "cpu_us", "h2c to HTTP/1.1: CPU <= best peer", "best"),
    Bar("h2-h2", "cpu_us", "h2c to h2c: CPU <= best peer", "best"),
    Bar("link-16", "cpu_us", "mesh link, 16 clients: CPU <= 0.4 x Envoy", "envoy", 0.4, ours="sidecar"),
    Bar("link-16", "cpu_us", "mesh link, 16 clients: CPU <= HAProxy", "haproxy", ours="sidecar"),
    Bar("link-64", "cpu_us", "mesh link, 64 clients: CPU <= 0.4 x Envoy", "envoy", 0.4, ours="sidecar"),
    Bar("link-64", "cpu_us", "mesh link, 64 clients: CPU <= HAProxy", "haproxy", ours="sidecar"),
    Bar("rate-hop", "added_p50", "1,000/s, plain hop: added P50 under Envoy's", "envoy"),
    Bar("rate-hop", "added_p99", "1,000/s, plain hop: added P99 under Envoy's", "envoy"),
    Bar("rate-hop", "added_p99", "1,000/s, plain hop: added P99 under 500 us", limit=500),
    Bar("rate-pair", "added_p50", "1,000/s, mTLS pair: added P50 under Envoy's", "envoy"),
    Bar("rate-pair", "added_p99", "1,000/s, mTLS pair: added P99 under Envoy's", "envoy"),
    Bar("rate-pair", "added_p99", "1,000/s, mTLS pair: added P99 under 500 us a hop", limit=500),
    Bar("grpc-rate", "added_p99", "gRPC at 1,000/s: added P99 under Envoy's", "envoy"),
    Bar("grpc-rate", "added_p99", "gRPC at 1,000/s: added P99 under 1 ms", limit=1000),
    Bar("h2-memory", "idle_bytes", "idle HTTP/2 connection <= 8 KiB", limit=8192),
    Bar("h2-memory", "stream_bytes", "HTTP/2 stream in flight <= 4 KiB", limit=4096),
    Bar("large", "cpu_us", "1 MiB answers: CPU <= Envoy", "envoy"),
    Bar("handshake", "cpu_us", "TLS handshakes: CPU <= 1.1 x best peer", "best", 1.1),
    Bar("memory", "pss_mb", "idle PSS of an edge proxy <= 20 MB", limit=20),
    Bar("memory", "pss_mb", "idle PSS of a sidecar <= 20 MB", limit=20, ours="sidecar"),
    Bar("memory", "idle_bytes", "idle connection <= 1,280 bytes", limit=1280),
    Bar("routes", "ratio", "10,000 routes within 5 % of one", limit=1.05),
    Bar("policy", "ratio", "all of traffic policy on: CPU <= 1.05 x plain", limit=1.05),
    Bar("policy", "cpu_us_policy", "all of traffic policy on: CPU <= 0.5 x Envoy", "envoy", 0.5),
    *(
        Bar(f"pick-{way}", figure, f"10,000 endpoints within 5 % of 10, {way}: {text}", limit=1.05)
        for way in ("least-request", "peak-ewma", "maglev")
        for figure, text in (("whole", "a request"), ("ratio", "the choice alone"))
    ),
    Bar("push", "ratio", "ten configs a second: P99 <= 1.2 x none", limit=1.2, ours="sidecar"),
    Bar("change-h1", "ratio", "HTTP/1.1 no dearer than before (3 %)", limit=1.03),
    Bar("change-h2-h1", "ratio", "HTTP/2 to HTTP/1.1 no dearer than before (3 %)", limit=1.03),
    Bar("change-h2-h2", "ratio", "HTTP/2 no dearer than before (3 %)", limit=1.03),
    Bar("change-pair", "ratio", "mTLS pair no dearer than before (3 %)", limit=1.03),
)


class Results:
    """The rows of one result file, by scenario, peer and round."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in document["rows"]:
            self.rows.setdefault((row["scenario"], row["peer"]), []).append(row)

    def peers(self, scenario: str) -> list[str]:
        return [peer for name, peer in self.rows if name == scenario]

    def by_round(self, scenario: str, peer: str, figure: str) -> dict[int, float]:
        rows = self.rows.get((scenario, peer), [])
        return {row["round"]: row["figures"][figure] for row in rows if figure in row["figures"]}

    def values(self, scenario: str, peer: str, figure: str) -> list[float]:
        return list(self.by_round(scenario, peer, figure).values())

    def problem(self, scenario: str, peer: str) -> str:
        """Why a row counts as failed: one failed round fails it."""
        bad = [row for row in self.rows.get((scenario, peer), []) if row["status"] != "ok"]
        return f"{bad[0]['status']}: {bad[0]['error']}" if bad else ""

    def disturbed(self, scenario: str, peer: str) -> float:
        rows = self.rows.get((scenario, peer), [])
        return max((max(row["disturbance"].values(), default=0.0) for row in rows), default=0.0)

    def best(self, scenario: str, figure: str) -> str:
        found = {
            peer: median(values) for peer in REAL_PEERS if (values := self.values(scenario, peer, figure))
        }
        return min(found, key=lambda peer: found[peer]) if found else ""


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    verdict: str  # PASS, FALLS SHORT, NOT MEASURED
    detail: str


def judge(results: Results, bar: Bar) -> Verdict:
    """By the median over rounds of the distance to that round's bound; a bar inside the spread is said so."""
    ours = results.by_round(bar.scenario, bar.ours, bar.figure)
    problem = results.problem(bar.scenario, bar.ours)
    if not ours or problem:
        return Verdict(
            bar, "FAILED" if problem.startswith("FAILED") else "NOT MEASURED", problem or "no such row"
        )
    if bar.limit:
        bounds, name = dict.fromkeys(ours, bar.limit), ""
    else:
        name = results.best(bar.scenario, bar.figure) if bar.other == "best" else bar.other
        theirs = results.by_round(bar.scenario, name, bar.figure)
        if not theirs or results.problem(bar.scenario, name):
            return Verdict(bar, "NOT MEASURED", results.problem(bar.scenario, name) or f"no {name or 'peer'}")
        bounds = {number: bar.factor * value for number, value in theirs.items()}
    both = sorted(ours.keys() & bounds.keys())
    if not both:
        return Verdict(bar, "NOT MEASURED", "no round has both")
    margins = [ours[number] - bounds[number] for number in both]
    mine, bound = median(ours[n] for n in both), median(bounds[n] for n in both)
    detail = f"{mine:,.4g} against {bound:,.4g}"
    if name:
        detail += f" ({bar.factor:g} x {name})"
    if bar.figure.startswith("added_") and min(mine, bound) < 0:
        return Verdict(bar, "NOT MEASURED", f"{detail}: the run without a proxy was the slower one")
    if min(margins) < 0 < max(margins):
        detail += ", within the spread of the rounds"
    parts = [(bar.scenario, bar.ours), (bar.scenario, name)]
    if bar.figure.startswith("added_"):
        parts.append(("rate-direct", "direct"))
    if (noise := max(results.disturbed(*part) for part in parts)) > DISTURBED_PERCENT:
        detail += f", disturbed ({noise:.0f} %)"
    return Verdict(bar, "PASS" if median(margins) <= 0 else "FALLS SHORT", detail)


def _cell(values: Sequence[float], decimals: int) -> str:
    if not values:
        return "-"
    middle = f"{median(values):,.{decimals}f}"
    if min(values) == max(values):
        return middle
    return f"{middle} ({min(values):,.{decimals}f}-{max(values):,.{decimals}f})"


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  " + "  ".join([first, *others]).rstrip())
    return lines


def _table(results: Results, scenario: str) -> list[str]:
    title, columns = TABLES[scenario]
    main = columns[0][0]
    ours = results.values(scenario, OURS, main)
    grid = [["", *(heading for _, heading, _ in columns), "x fastmesh", "others %"]]
    problems = []
    for peer in results.peers(scenario):
        if problem := results.problem(scenario, peer):
            problems.append(f"  {peer}: {problem}")
            continue
        values = results.values(scenario, peer, main)
        ratio = f"{median(values) / median(ours):.2f}" if ours and values and median(ours) > 0 else "-"
        cells = [_cell(results.values(scenario, peer, figure), decimals) for figure, _, decimals in columns]
        grid.append([peer, *cells, ratio, f"{results.disturbed(scenario, peer):.0f}"])
    return ["", title, *(_grid(grid) if len(grid) > 1 else []), *problems]


def _origin(document: dict[str, Any]) -> str:
    return f"{document['taken']}, commit {document['machine']['commit'][:10]}"


def render(document: dict[str, Any]) -> str:
    results = Results(document)
    machine, settings = document["machine"], document["settings"]
    load = " ".join(f"{value:.2f}" for value in machine["load_average"])
    proxy_core, load_core = settings["proxy_core"], settings["load_core"]
    lines = [
        f"fastmesh bench, {_origin(document)}{' (changed)' if machine['dirty'] else ''}",
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"TCP {machine['congestion_control']}, load average at the start {load}",
        f"{settings['rounds']} rounds of {settings['seconds']:g} s; median (least-most) over rounds; "
        f"proxies on core {proxy_core}, load and backend on core {load_core};",
        "'others %': the most that anything else took of one of the two cores in a window",
        *(f"  {name}: {version}" for name, version in document["versions"].items()),
    ]
    for scenario in TABLES:
        if results.peers(scenario):
            lines += _table(results, scenario)
    verdicts = [judge(results, bar) for bar in BARS if results.peers(bar.scenario)]
    if verdicts:
        passed = sum(verdict.verdict == "PASS" for verdict in verdicts)
        lines += ["", f"bars: {passed} of {len(verdicts)} hold"]
        lines += _grid([[verdict.bar.text, verdict.verdict, verdict.detail] for verdict in verdicts])
        if any("disturbed" in verdict.detail for verdict in verdicts):
            lines.append("  what was disturbed wants another run on a quiet machine")
        if settings["quick"]:
            lines.append("  one quick round decides nothing: run without --quick before believing a verdict")
    return "\n".join(lines)


def render_change(now: dict[str, Any], base: dict[str, Any]) -> str:
    """Each figure now against a stored run; a change is told only when the rounds of both do not overlap."""
    new, old = Results(now), Results(base)
    grid = [["", "", "figure", "base", "now", "now/base", ""]]
    for scenario, (_title, columns) in TABLES.items():
        for peer in new.peers(scenario):
            for figure, heading, decimals in columns:
                mine, theirs = new.values(scenario, peer, figure), old.values(scenario, peer, figure)
                if not mine or not theirs or median(theirs) == 0:
                    continue
                apart = max(mine) < min(theirs) or min(mine) > max(theirs)
                word = "" if not apart else "less" if median(mine) < median(theirs) else "more"
                ratio = f"{median(mine) / median(theirs):.2f}"
                grid.append(
                    [scenario, peer, heading, _cell(theirs, decimals), _cell(mine, decimals), ratio, word]
                )
    return "\n".join([f"base {_origin(base)}", f"now  {_origin(now)}", *_grid(grid)])


def _newest() -> Path | None:
    stored = sorted((Path(__file__).resolve().parent / "results").glob("2*.json"))
    return stored[-1] if stored else None


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench compare", description="Prints a stored result, or a change."
    )
    parser.add_argument("file", type=Path, nargs="?", help="result file (default: the newest)")
    parser.add_argument("base", type=Path, nargs="?", help="an older one to compare with")
    parser.add_argument(
        "--strict", action="store_true", help="status 1 if a bar falls short or was not measured"
    )
    args = parser.parse_args(argv)
    path = args.file or _newest()
    if path is None:
        print("bench: no stored result; run python -m bench first", file=sys.stderr)
        return 2
    now = json.loads(path.read_text())
    if args.base is not None:
        print(render_change(now, json.loads(args.base.read_text())))
        return 0
    print(render(now))
    results = Results(now)
    # change needs another build: who has none cannot fail it
    due = [bar for bar in BARS if results.peers(bar.scenario) or not bar.scenario.startswith("change")]
    verdicts = [judge(results, bar).verdict for bar in due]
    return 1 if args.strict and any(verdict != "PASS" for verdict in verdicts) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
