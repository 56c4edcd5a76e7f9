"""Two things against each other, in turns of the same run: the ratio, and how sure it is.

Owns: the order of turns and the statistics. Must not know: what is compared.
A turn asks both, one right after the other, and the next turn the other way round: what the machine does in
between hits both alike. Each turn gives one ratio; what is told is their geometric mean and where it lies
with 95 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bench import procs
from bench.load import Result
from bench.peers import Peer
from bench.scenarios import Bench, Row

# Student's t, two-sided 95 %, by degrees of freedom; beyond the last it is taken as the last.
T95 = (
    12.71,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


@dataclass(frozen=True)
class Ratio:
    """`low` and `high` bound it with 95 % confidence; one turn has no spread: both are the ratio itself."""

    ratio: float
    low: float
    high: float


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Of the second to the first, by turns."""
    logs = [math.log(second / first) for first, second in pairs]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), math.exp(mean), math.exp(mean))
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / (len(logs) - 1) / len(logs))
    reach = spread * T95[min(len(logs) - 1, len(T95)) - 1]
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))


@dataclass(frozen=True)
class Side:
    """A running proxy, and the load that it gets for so many seconds."""

    running: procs.Running
    run: Callable[[float], Result]


def cpu(
    bench: Bench, row: Row, first: Side, second: Side, turns: int, seconds: float
) -> list[tuple[float, float]]:
    """CPU time per request of both, turn by turn, microseconds."""
    for side in (first, second):
        side.run(bench.settings.warm)
    pairs = []
    for turn in range(turns):
        spent = {}
        for side in (first, second) if turn % 2 == 0 else (second, first):
            result, used = bench.window(row, side.running, partial(side.run, seconds))
            spent[side is second] = used / result.answered
        pairs.append((spent[False], spent[True]))
    return pairs


def told(row: Row, pairs: Sequence[tuple[float, float]], first: str, second: str) -> None:
    """The figures of a row: both sides' mean under these names, the ratio and its bounds."""
    row.figures[first] = sum(pair[0] for pair in pairs) / len(pairs)
    row.figures[second] = sum(pair[1] for pair in pairs) / len(pairs)
    found = ratio(pairs)
    row.figures |= {"ratio": found.ratio, "ratio_low": found.low, "ratio_high": found.high}


@contextmanager
def both(
    bench: Bench, first: Peer, second: Peer, shape: str
) -> Iterator[tuple[procs.Running, procs.Running]]:
    """Both proxies side by side, fresh and checked."""
    with bench.proxy(first, shape) as (one, _), bench.proxy(second, shape) as (two, _):
        yield one, two
