"""A sidecar's agent without a data plane: the real Subscriber on the real loop, applying all it gets at once.

Run as a program: `python control_agent.py BUNDLE STATE_DIR [OPTIONS]`. It writes one JSON object a line on
stdout: {"event": "config" | "warning" | "fatal" | "identity" | "gone", ...}, and takes SIGTERM as goodbye.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys

from fastmesh.agent.certs import Identity
from fastmesh.agent.loop import Loop
from fastmesh.agent.subscriber import EXIT_JOIN_REFUSED, Subscriber


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def spoil(subscriber: Subscriber, dice: random.Random) -> None:
    """Treat the updates as a bad network would (ZeroMQ's queues drop when they are full)."""
    taken = subscriber._on_update
    kept: list[tuple[bytes, bytes]] = []

    def on_update(subject: bytes, frame: bytes) -> None:
        fate = dice.random() if subject.startswith(b"svc/") else 1.0
        if fate < 0.3:
            return
        if fate < 0.5:
            kept.append((subject, frame))
            return
        taken(subject, frame)
        if fate < 0.7:
            taken(subject, frame)
        while kept and dice.random() < 0.5:
            taken(*kept.pop())

    subscriber._on_update = on_update  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("state")
    parser.add_argument("--port", type=int, default=15006)
    parser.add_argument("--app-port", type=int, default=9080)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--refuse", default="", help="nack topics that contain this")
    parser.add_argument("--no-ack", action="store_true")
    parser.add_argument("--lossy", type=int, help="drop, repeat and reorder updates, by this seed")
    args = parser.parse_args()
    with open(args.bundle) as file:
        bundle = json.load(file)
    os.makedirs(args.state, exist_ok=True)
    status = 0

    def failed(error: BaseException) -> None:
        import traceback

        traceback.print_exception(error)

    loop = Loop(failed)

    def applied(state: dict) -> None:
        tell(
            "config",
            source=state["source"],
            epoch=state["epoch"],
            versions=state["versions"],
            mtls=state["policy"]["mtls"],
            trust=state["trust"].get("trust_domain"),
            endpoints={
                topic: sorted(
                    {(e["address"], e["port"]) for cluster in found["clusters"] for e in cluster["endpoints"]}
                )
                for topic, found in state["services"].items()
            },
            counters=subscriber.counters,
        )
        for topic in state["services"]:
            if args.refuse and args.refuse in topic:
                subscriber.nack(topic, "refused for the test")
                return
        if not args.no_ack:
            subscriber.ack(state["versions"], len(state["versions"]), 2)

    def refused(code: str, message: str) -> None:
        nonlocal status
        status = EXIT_JOIN_REFUSED
        tell("fatal", code=code, message=message)
        loop.stop()

    identity = Identity(loop, args.state, bundle["spiffe_id"])

    def changed() -> None:
        tell(
            "identity",
            generation=identity.generation,
            chain=identity.chain.decode(),
            roots=identity.roots.decode(),
            not_after=identity.not_after,
            persisted=identity.persisted,
        )

    info = {
        "address": "127.0.0.1",
        "port": args.port,
        "app_port": args.app_port,
        "labels": {"version": args.version},
        "workers": 2,
    }
    subscriber = Subscriber(loop, bundle, identity, args.state, applied, info)
    identity.on_change = changed
    identity.on_warning = lambda line: tell("warning", line=line)
    subscriber.on_warning = lambda line: tell("warning", line=line)
    subscriber.on_fatal = refused
    subscriber.on_fetch = lambda what: {"what": what, "versions": subscriber.store.versions(), "pem": b"x"}

    if args.lossy is not None:
        spoil(subscriber, random.Random(args.lossy))

    def leave() -> None:
        tell("gone")
        loop.stop()

    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)
    loop.add_reader(reader, lambda: (os.read(reader, 64), subscriber.goodbye(leave)))
    heavy = {"asyncio", "cryptography", "pydantic", "yaml", "subprocess"} & set(sys.modules)
    tell("started", pid=os.getpid(), instance=identity.instance, heavy=sorted(heavy))
    subscriber.start()
    loop.run()
    subscriber.close()
    identity.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
