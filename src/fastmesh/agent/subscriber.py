"""The sidecar's end of the control protocol: join, hello, subscription, repair, acks, renewal of the
certificate.

Owns the session with the control plane and when the next one is tried. It must not know what topics mean nor
how a config is applied: it hands the merged desired state to `on_config` and is told by `ack` and `nack` what
became of it. While the control plane is away everything held stays in force. Sockets are channel.py's, the
store of topics topicstore.py's, keys certs.py's.

    subscriber = Subscriber(loop, bundle, identity, state_dir, on_config, info)
    subscriber.start()  # on_config({"services", "policy", "trust", "versions", "epoch", "source"}) follows
    subscriber.ack(state["versions"], generation, workers)  # when every worker serves it
"""

from __future__ import annotations

import os
import random
import time
from os.path import join

import zmq

from fastmesh.agent.channel import Channel
from fastmesh.agent.topicstore import APPLIED, FILE, GAP, TopicStore
from fastmesh.model import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.agent.certs import Identity
    from fastmesh.agent.loop import Loop, Timer

EXIT_JOIN_REFUSED = 5  # exit status of a sidecar that may not join and has nothing to serve

ANSWER_SECONDS = 5.0  # for a hello, a join, a sync (each part), a renewal
BACKOFF_FIRST = 0.1
BACKOFF_CAP = 5.0  # below the grace that a restarted control plane gives (registry.GRACE_SECONDS)
REFUSED_SECONDS = 30.0  # between tries after a refusal that trying again will hardly cure
DEBOUNCE_SECONDS = 0.02
SYNC_DELAY = 0.1  # a digest that differs may be an update on its way
SAVE_SECONDS = 1.0
BUFFERED = 10_000  # updates kept while the first snapshot of a session arrives
RENEW_RETRY = 60.0
REPORT_LIMIT = wire.MAX_REQUEST - 4096


class Subscriber:
    """One sidecar's connection to its control plane.

    Set before start(), all optional: `on_fatal(code, message)`: the join was refused and nothing is held
    to serve; `on_warning(line)` for the log; `on_fetch(what) -> dict` answers `fastmesh proxy-config`.
    """

    def __init__(
        self,
        loop: Loop,
        bundle: dict[str, Any],
        identity: Identity,
        state_dir: str,
        on_config: Callable[[dict[str, Any]], object],
        info: dict[str, Any],
        patterns: list[str] | None = None,
    ) -> None:
        self._loop = loop
        self._bundle = bundle
        self._identity = identity
        self._on_config = on_config
        self._info = {"service": bundle["service"], "namespace": bundle["namespace"], **info}
        # All services are subscribed; a narrower list here, extended by subscribe messages, is what a lazy
        # sidecar will use.
        self._patterns = patterns or ["svc/", f"ns/{bundle['namespace']}", wire.TRUST]
        self.store = TopicStore(join(state_dir, FILE) if state_dir else "")
        self._context: zmq.Context[Any] = zmq.Context(1)
        self._boot = os.urandom(8).hex()
        self._channel: Channel | None = None
        self._serial = 0
        self._waiting: dict[int, tuple[str, Timer]] = {}  # request id -> (its type, its deadline)
        self._timers: dict[str, Timer] = {}
        self._session = ""
        self._incarnation = ""
        self._whole = True  # the next snapshot is the first of its session
        self._held_back: list[tuple[str, int, int, bytes | None]] | None = None
        self._acked: dict[str, int] = {}
        self._status: dict[str, Any] = {}
        self._failures = 0
        self._yielding = False
        self._proof: dict[str, bytes] = {}
        self._keys: dict[int, bytes] = {}  # request id -> the key that a certificate was asked for with it
        self._request: dict[str, bytes] | None = None  # key and CSR of a join under way
        self._making = False
        self._heard = 0.0
        self._pulse = 0.0
        self._lease, self._beat = 6.0, 2.0
        self._closed = False
        self._on_gone: Callable[[], object] | None = None
        self.connected = False  # a session is up and in step
        self.last_error = ""
        self.counters = dict.fromkeys(
            (
                "connects",
                "lost",
                "updates",
                "duplicates",
                "gaps",
                "syncs",
                "malformed",
                "superseded",
                "refused",
                "renewals",
                "fragments_bad",
            ),
            0,
        )
        self.on_fatal: Callable[[str, str], object] = _nothing
        self.on_warning: Callable[[str], object] = _nothing
        self.on_fetch: Callable[[str], dict[str, Any]] = self._describe

    # -- what the agent calls

    def start(self) -> None:
        """Hand over what an earlier process kept, and begin to connect."""
        self._identity.on_due = self._renew
        problem = self.store.load()
        if problem:
            self._warn(
                f"{self.store.path} cannot be used: {problem}; the control plane will be asked for all of it"
            )
        if self.store.topics:
            self._notify("disk")
        self._open()

    def ack(self, versions: dict[str, int], generation: int = 0, workers: int = 0) -> None:
        """Every worker serves these versions (`versions` of the state given to on_config)."""
        self._status.update(generation=generation, workers=workers)
        before, self._acked = self._acked, dict(versions)
        if self._session:
            changed = {topic: version for topic, version in versions.items() if before.get(topic) != version}
            full = not before or any(topic not in versions for topic in before)
            self._send("ack", versions=versions if full else changed, full=full, status=self._status)
        if self.store.served(versions):
            self._later("save", SAVE_SECONDS, self._save)

    def nack(self, topic: str, reason: str) -> None:
        """The current content of a topic cannot be served: the old stays, and the control plane is told
        why."""
        held = self.store.topics.get(topic)
        if held and self._session:
            self._send("nack", topic=topic, version=held[0], reason=reason[: wire.MAX_REASON])

    def status(self, **fields: Any) -> None:
        """Set what heartbeats say of this sidecar: generation, workers, counters (name -> number)."""
        self._status.update(fields)

    def advertise(self, wanted: bool) -> None:
        """Whether others are to send to this workload. An older control plane lists it always."""
        self._status["unlisted"] = not wanted
        if self._session and self._acked:
            self._send("ack", versions={}, status=self._status)

    def goodbye(self, done: Callable[[], object] = lambda: None) -> None:
        """Leave the endpoint lists now. `done` is called when the control plane has confirmed, or after a
        second."""
        self._on_gone = done
        if not self._session:
            self._gone()
            return
        self._send("goodbye", wait=True)
        self._later("gone", 1.0, self._gone)

    def close(self) -> None:
        """Close sockets and timers; nothing is called back any more."""
        self._closed = True
        self._drop()
        for timer in self._timers.values():
            timer.cancel()
        self._context.destroy(linger=0 if self._on_gone is None else 100)

    # -- connecting

    def _open(self) -> None:
        if self._closed:
            return
        self.counters["connects"] += 1
        keys = (self._identity.curve_public, self._identity.curve_secret)
        try:
            self._channel = Channel(
                self._loop,
                self._context,
                self._bundle,
                keys,
                wire.MAX_REPLY + 65536,
                self._on_frame,
                self._on_update,
                self._on_lost,
            )
        except zmq.ZMQError as error:
            self._on_lost(f"no connection to {self._bundle['control']} can be opened: {error}")
            return
        if self._identity.has_cert:
            self._hello()
        else:
            self._join()

    def _hello(self) -> None:
        fields: dict[str, Any] = {**self._proof}
        if self._yielding:
            fields["yielding"] = True
        self._send(
            "hello",
            wait=True,
            protocol=[wire.PROTOCOL_MIN, wire.PROTOCOL_VERSION],
            instance=self._identity.instance,
            boot=self._boot,
            info=self._info,
            patterns=self._patterns,
            **fields,
        )

    def _join(self) -> None:
        """Ask for the first certificate. Key and request are made once, however often this is tried."""

        def made(parts: dict[str, bytes] | None, error: str) -> None:
            self._making = False
            if parts is None:
                self._on_lost(error)
                return
            self._request = parts
            if self._channel is not None:
                self._send(
                    "join",
                    key=parts["key"],
                    wait=True,
                    token=self._bundle["token"],
                    csr=parts["csr"],
                    instance=self._identity.instance,
                    protocol=[wire.PROTOCOL_MIN, wire.PROTOCOL_VERSION],
                )

        if self._request is not None:
            made(self._request, "")
        elif not self._making:  # else the helper is at it: starting it anew each time would never end
            self._making = True
            self._identity.request(made, new_key=True)

    def _prove(self, nonce: bytes) -> None:
        """Show by the certificate's key who we are: the control plane does not know our CURVE key (it lost
        its registry)."""

        def made(parts: dict[str, bytes] | None, error: str) -> None:
            if parts is None:
                self._on_lost(error)
            elif self._channel is not None:
                self._proof = {"chain": self._identity.chain, "nonce": nonce, "signature": parts["signature"]}
                self._hello()
                self._proof = {}

        self._making = False  # there is one helper: a join's is given up
        self._identity.request(made, new_key=False, nonce=nonce)

    def _on_lost(self, reason: str, pause: float | None = None) -> None:
        """The session is over: try again after a pause that grows, with jitter."""
        was = self._session
        self._drop()
        self.counters["lost"] += 1
        if reason != self.last_error or was:
            self._warn(f"control plane: {reason}; what is held stays in force")
        self.last_error = reason
        if self._on_gone is not None:
            self._gone()
        if pause is None:
            pause = min(BACKOFF_CAP, BACKOFF_FIRST * 2**self._failures) * random.uniform(0.5, 1.0)
            self._failures = min(self._failures + 1, 16)
        self._later("open", pause, self._open)

    def _drop(self) -> None:
        self._session = ""
        self.connected = False
        self._held_back = None
        for _, timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()
        self._keys.clear()
        for name in ("beat", "sync", "open", "barrier"):
            if name in self._timers:
                self._timers.pop(name).cancel()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _send(self, kind: str, *, wait: bool = False, key: bytes = b"", **fields: Any) -> None:
        if self._channel is None:
            return
        self._serial += 1
        if key:
            self._keys[self._serial] = key
        if wait:
            timer = self._loop.call_later(
                ANSWER_SECONDS, self._on_lost, f"no answer to {kind} in {ANSWER_SECONDS:g} s"
            )
            self._waiting[self._serial] = (kind, timer)
        self._channel.send(wire.encode(kind, id=self._serial, **fields))

    # -- frames from the control plane

    def _on_frame(self, frame: bytes) -> None:
        try:
            message = wire.decode(frame, wire.REPLIES)
        except wire.WireError as error:
            self.counters["malformed"] += 1
            self._warn(f"control plane sent a malformed frame: {error}")
            return
        self._heard = self._loop.time()
        asked = ""
        if "re" in message:
            waited = self._waiting.pop(message["re"], None)
            if waited is not None:
                asked = waited[0]
                waited[1].cancel()
        getattr(self, f"_on_{message['t']}")(message, asked)

    def _on_ok(self, message: dict[str, Any], asked: str) -> None:
        if asked == "goodbye":
            self._gone()

    def _on_welcome(self, message: dict[str, Any], asked: str) -> None:
        if asked != "hello" or self._channel is None:
            return
        self._session = message["session"]
        self._lease, self._beat = float(message["lease"]), float(message["heartbeat"])
        self._yielding = False
        self._whole = True
        self._incarnation = message["incarnation"]
        self.store.begin_epoch(message["epoch"])
        self._resubscribe()
        self._pulse = self._heard
        self._later("beat", self._beat, self._heartbeat)
        if self._acked:
            self._send("ack", versions=self._acked, full=True, status=self._status)
        if self._identity.renew_at <= time.time():
            self._renew()

    def _resubscribe(self) -> None:
        """Open the updates socket and wait for the barrier: what is published after it cannot be missed,
        so then is the time to sync."""
        if self._channel is None:
            return
        self._held_back = []
        topics = [*self._patterns, wire.PULSE, wire.BARRIER + self._session + os.urandom(4).hex()]
        self._channel.subscribe([wire.subscription(topic) for topic in topics])
        self._later("barrier", ANSWER_SECONDS, self._resubscribe)

    def _on_certificate(self, message: dict[str, Any], asked: str) -> None:
        key = self._keys.pop(message.get("re", 0), b"")
        if asked not in ("join", "renew") or not key:
            return
        if message["spiffe_id"] != self._identity.spiffe_id:
            self._on_lost(
                f"the certificate is {message['spiffe_id']}'s, not {self._identity.spiffe_id}'s",
                REFUSED_SECONDS,
            )
            return
        self._identity.install(
            key,
            message["chain"],
            message["roots"],
            message["issued"],
            message["not_before"],
            message["not_after"],
        )
        if asked == "join":
            self._request = None
            self._hello()
        else:
            self.counters["renewals"] += 1

    def _on_snapshot(self, message: dict[str, Any], asked: str) -> None:
        if asked != "sync" or not self._session:
            return
        topics = {topic: (version, payload) for topic, (version, payload) in message["topics"].items()}
        changed = self.store.snapshot(message["version"], topics, message["removed"], self._whole)
        if not message["last"]:
            timer = self._loop.call_later(ANSWER_SECONDS, self._on_lost, "the snapshot was cut off")
            self._waiting[message["re"]] = ("sync", timer)
            self._changed(changed)
            return
        self._whole = False
        held_back, self._held_back = self._held_back or [], None
        for update in held_back:
            changed = self._apply(*update) or changed
        self.connected = True
        self._failures = 0
        self.last_error = ""
        self._changed(changed)

    def _on_alive(self, message: dict[str, Any], asked: str) -> None:
        if message["epoch"] != self.store.epoch:
            self._on_lost("the control plane's state was begun anew", 0.0)
        elif self.connected and message["digest"] != self.store.digest():
            self._later("sync", SYNC_DELAY, self._compare)

    def _compare(self) -> None:
        """The digests differed a moment ago; ask for whatever differs (the answer is empty if the updates
        have arrived since)."""
        if self.connected:
            self._sync(None)

    def _sync(self, only: list[str] | None) -> None:
        self.counters["syncs"] += 1
        fields: dict[str, Any] = {} if only is None else {"topics": only}
        self._send("sync", wait=True, known=self.store.known(only), **fields)

    def _on_nonce(self, message: dict[str, Any], asked: str) -> None:
        if asked != "challenge":
            return

        def made(parts: dict[str, bytes] | None, error: str) -> None:
            if parts is None:
                self._warn(f"the certificate cannot be renewed: {error}")
                self._later("renew", self._renew_pause(), self._renew)
            else:
                self._send(
                    "renew",
                    wait=True,
                    key=parts["key"],
                    csr=parts["csr"],
                    chain=self._identity.chain,
                    nonce=message["nonce"],
                    signature=parts["signature"],
                )

        self._making = False
        self._identity.request(made, new_key=True, nonce=message["nonce"])

    def _on_fetch(self, message: dict[str, Any], asked: str) -> None:
        try:
            data = wire.pack_payload(self.on_fetch(message["what"]))
            if len(data) > REPORT_LIMIT:
                data = wire.pack_payload(
                    {"error": f"the report is {len(data)} bytes, more than the protocol carries"}
                )
        except Exception as error:  # the agent's own report must not end the session
            data = wire.pack_payload({"error": f"{type(error).__name__}: {error}"})
        if self._channel is not None and "id" in message:
            self._channel.send(wire.encode("report", re=message["id"], data=data))

    def _on_error(self, message: dict[str, Any], asked: str) -> None:
        code, text = message["code"], message["message"]
        self._keys.pop(message.get("re", 0), None)
        if code == wire.E_SUPERSEDED:
            self.counters["superseded"] += 1
            self._yielding = True
            self._on_lost(text, 2 * self._lease * random.uniform(0.8, 1.2))
        elif code == wire.E_PROOF and asked == "hello":
            self._prove(message["nonce"])
        elif code == wire.E_IDENTITY and asked == "hello":
            self._warn(f"the control plane does not accept our identity ({text}); joining anew")
            self._join()
        elif asked == "join" or code == wire.E_PROTOCOL:
            self._refused(code, text)
        elif asked == "renew":
            self._warn(f"the certificate was not renewed: {text}")
            self._later("renew", self._renew_pause(), self._renew)
        elif code == wire.E_NO_SESSION and self._session:
            self._on_lost("the control plane does not know this session", 0.0)
        else:
            self._on_lost(f"{asked or 'a request'} was refused: {text} ({code})")

    def _refused(self, code: str, text: str) -> None:
        """The join was refused. With something to serve that is a warning; with nothing, only a user can
        help."""
        self.counters["refused"] += 1
        final = code in wire.JOIN_FATAL
        self._on_lost(f"refused: {text} ({code})", REFUSED_SECONDS if final else None)
        if final and not self.store.topics:
            self.on_fatal(code, text)

    # -- updates

    def _on_update(self, subject: bytes, frame: bytes) -> None:
        try:
            topic = subject.rstrip(wire.TOPIC_END).decode()
            message = wire.decode(frame, wire.UPDATES)
        except (wire.WireError, UnicodeDecodeError) as error:
            self.counters["malformed"] += 1
            self._warn(f"control plane published a malformed frame: {error}")
            return
        self._pulse = self._loop.time()
        if message["t"] == "barrier":
            if "barrier" in self._timers:
                self._timers.pop("barrier").cancel()
            if self._held_back is not None:
                self._sync(None)
            return
        if message["epoch"] != self.store.epoch:
            self._on_lost("the control plane's state was begun anew", 0.0)
        elif message["t"] == "update" and wire.matches(topic, self._patterns):
            update = (topic, message["version"], message["prev"], message["data"])
            if self._held_back is None:
                self._changed(self._apply(*update))
            elif len(self._held_back) < BUFFERED:
                self._held_back.append(update)  # what does not fit is found by the digest

    def _apply(self, topic: str, version: int, prev: int, payload: bytes | None) -> bool:
        outcome = self.store.update(topic, version, prev, payload)
        if outcome == APPLIED:
            self.counters["updates"] += 1
            return True
        if outcome == GAP:
            self.counters["gaps"] += 1
            self._sync([topic])
        else:
            self.counters["duplicates"] += 1
        return False

    def _changed(self, changed: bool) -> None:
        if changed and "config" not in self._timers:
            self._later("config", DEBOUNCE_SECONDS, lambda: self._notify("control"))

    def _notify(self, source: str) -> None:
        state, bad = self.store.desired(self._info)
        for topic, reason in bad.items():
            self.counters["fragments_bad"] += 1
            self._warn(f"{topic} cannot be read: {reason}")
            self.nack(topic, reason)
        if "roots" in state["trust"]:
            self._identity.set_roots(state["trust"]["roots"])
        self._identity.reissue(state["trust"].get("reissue", 0))
        self._on_config({**state, "source": source})

    # -- timers

    def _heartbeat(self) -> None:
        now = self._loop.time()
        if now - self._heard > self._lease:
            self._on_lost(f"nothing was heard for {self._lease:g} s")
            return
        if now - self._pulse > self._lease and self._held_back is None:
            self._warn("no updates are heard from the control plane; subscribing anew")
            self._pulse = now
            self._resubscribe()
        self._send("heartbeat", digest=self.store.digest(), status=self._status)
        self._later("beat", self._beat, self._heartbeat)

    def _renew(self) -> None:
        """Ask for a challenge to renew with; every way on ends in a certificate, a lost session or a timer.
        Without a session the next welcome sees that renewal is due."""
        if self._session:
            self._send("challenge", wait=True)

    def _renew_pause(self) -> float:
        """Until the next try: a twentieth of the certificate's life, a minute at most."""
        return min(RENEW_RETRY, (self._identity.not_after - self._identity.issued) / 20)

    def _save(self) -> None:
        try:
            self.store.save()
        except OSError as error:
            self._warn(
                f"{self.store.path} cannot be written: {error.strerror}; "
                "a restart without the control plane would serve older config"
            )

    def _later(self, name: str, delay: float, callback: Callable[[], object]) -> None:
        """Set a named timer; an earlier one of the name is forgotten."""
        old = self._timers.get(name)
        if old is not None:
            old.cancel()

        def fire() -> None:
            self._timers.pop(name, None)
            callback()

        self._timers[name] = self._loop.call_later(delay, fire)

    def _gone(self) -> None:
        done, self._on_gone = self._on_gone, None
        if "gone" in self._timers:
            self._timers.pop("gone").cancel()
        if done is not None:
            self.close()
            done()

    def _describe(self, what: str) -> dict[str, Any]:
        return {"versions": self.store.versions(), "epoch": self.store.epoch, "counters": self.counters}

    def _warn(self, line: str) -> None:
        self.on_warning(line)


def _nothing(*_: object) -> None:
    """For callbacks that nobody has set."""
