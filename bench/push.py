"""Configs pushed while requests flow: what they add to a request's latency.

Owns: who pushes what and when. Must not know: how a sidecar takes a config in.
A control plane and two sidecars, the mesh link between them; slices at a fixed rate with ten changes a second
and without any, in turns. A change goes through the API, and is a real one: each answer says by a header by
which config it was routed. What a control plane takes of the load's core, on two of them, is no part of
what a sidecar costs: in slices of a third kind another control plane, to which nobody listens, gets the
changes.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from bench import check, load, paired, procs
from bench.mesh import CLIENT, SERVER, Mesh, Sidecar, mesh
from bench.peers import Peer
from bench.scenarios import READY_SECONDS, Bench, Row, Scenario

PER_SECOND = 10
SEEN = "x-bench-config"
TAKEN_SECONDS = 5.0  # the last change is in force by then, or the row fails

CHANGE = f"""apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: pushed, namespace: default}}
spec:
  hosts: [{SERVER}]
  http:
  - route:
    - destination: {{host: {SERVER}}}
    headers: {{response: {{set: {{{SEEN}: "@NUMBER@"}}}}}}
"""


@dataclass
class Pusher:
    """Applies one change after the other, each when it is due."""

    made: Mesh
    number: int = 0
    problem: str = ""
    taken: list[float] = field(default_factory=list)  # seconds that the API took

    def push(self) -> None:
        self.number += 1
        begun = time.monotonic()
        api = http.client.HTTPConnection("127.0.0.1", self.made.api, timeout=check.TIMEOUT)
        body = CHANGE.replace("@NUMBER@", str(self.number)).encode()
        api.request("POST", "/v1/apply", body, {"Authorization": f"Bearer {self.made.token}"})
        answer = api.getresponse()
        text = answer.read()
        api.close()
        self.taken.append(time.monotonic() - begun)
        if answer.status != 200:
            raise check.CheckFailed(f"apply: {answer.status} {text[:200]!r}")

    def _until(self, stop: threading.Event) -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # this thread: as the control plane
        due = time.monotonic()
        try:
            while not stop.wait(max(0.0, due - time.monotonic())):
                self.push()
                due += 1 / PER_SECOND
        except (OSError, http.client.HTTPException, check.CheckFailed) as problem:
            self.problem = str(problem) or type(problem).__name__

    @contextmanager
    def pushing(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._until, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def push(bench: Bench, peer: Peer, row: Row) -> None:
    assert isinstance(peer, Sidecar)
    bench.starts += 1
    settings, running = bench.settings, procs.Running(0)
    directory = bench.directory / f"{bench.starts:04d}-push"
    cores = settings.proxy_core, settings.load_core
    decoy = directory.with_name(f"{directory.name}-decoy")
    with (
        mesh(peer, directory, bench.backends.http1, *cores, idle=True) as made,
        mesh(peer, decoy, bench.backends.http1, *cores, idle=True) as nobody,
    ):
        try:
            running.inner_port, _, _ = made.sidecar(running, SERVER)
            _, running.port, _ = made.sidecar(running, CLIENT)
            port, host, pusher, elsewhere = running.port, peer.host(), Pusher(made), Pusher(nobody)
            check.until(lambda: check.plain(port, "/", host), READY_SECONDS, running.dead)
            target = bench.target(running, peer)

            def in_force() -> None:
                seen = check.get(port, "/", host).headers.get(SEEN)
                if seen != str(pusher.number):
                    raise check.CheckFailed(f"config {pusher.number} is not in force: {seen}")

            def run() -> load.Result:
                return load.rate(target, settings.seconds, settings.connections, settings.rate)

            check.until(elsewhere.push, READY_SECONDS, nobody.control.dead)
            pusher.push()
            check.until(in_force, TAKEN_SECONDS, running.dead)
            load.rate(target, settings.warm, settings.connections, settings.rate)
            found: dict[str, list[dict[str, float]]] = {"none": [], "quiet": [], "pushed": []}
            pushers = {"none": nullcontext, "quiet": elsewhere.pushing, "pushed": pusher.pushing}
            before, pushed = pusher.number, 0.0
            for turn in range(settings.turns):
                for kind in list(pushers) if turn % 2 == 0 else reversed(pushers):
                    with pushers[kind]():
                        begun = time.monotonic()
                        found[kind].append(bench.window(row, running, run)[0].latency)
                        pushed += (time.monotonic() - begun) * (kind == "pushed")
                    if problem := pusher.problem or elsewhere.problem:
                        raise check.CheckFailed(problem)
                    check.until(in_force, TAKEN_SECONDS, running.dead)
        finally:
            running.stop()
    for kind, latencies in found.items():
        for figure in ("p50", "p99", "p999"):
            row.figures[f"{figure}_{kind}"] = sum(each[figure] for each in latencies) / len(latencies)
    p99 = {kind: [each["p99"] for each in latencies] for kind, latencies in found.items()}
    told = paired.ratio(list(zip(p99["quiet"], p99["pushed"], strict=True)))
    row.figures |= {"ratio": told.ratio, "ratio_low": told.low, "ratio_high": told.high}
    row.figures["ratio_none"] = paired.ratio(list(zip(p99["none"], p99["pushed"], strict=True))).ratio
    row.figures["pushes"] = (pusher.number - before) / pushed
    row.figures["apply_ms"] = 1e3 * sum(pusher.taken) / len(pusher.taken)


PUSH: dict[str, Scenario] = {"push": push}
