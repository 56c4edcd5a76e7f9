"""The sidecar's identity: its key, certificate chain, the mesh's roots, and the CURVE key that it speaks to
the control plane with.

Owns the identity file (0600, replaced by temporary file, fsync and rename), the helper process that makes
keys, and the time at which the certificate is due for renewal. It must not know the control protocol: the
subscriber asks for a request here, has it signed and installs the answer. One file holds key and chain
together, so that a crash never leaves a key beside another key's certificate.
"""

from __future__ import annotations

import json  # pyzmq has loaded json and random already
import os
import random
import signal
import sys
import time
import zlib
from os.path import dirname, join

import msgpack
import zmq

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.agent.loop import Loop, Timer

    Answer = Callable[[dict[str, bytes] | None, str], object]

FILE = "identity"
FORMAT = 1
RENEW_AT = 0.5  # of the certificate's life
RENEW_JITTER = 0.05  # of its life, either way: a fleet started together does not renew together
# Where our clock is far ahead of the control plane's a new certificate is past its half at once: at least
# this long (or a twentieth of its life) lies between two.
RENEW_LEAST = 60.0
# Timers count monotonic time; the wall clock may be set, and a machine may sleep: it is looked at this often.
CLOCK_SECONDS = 60.0
# Over this time a fleet spreads its renewals when another certificate signs from now on.
REISSUE_SECONDS = 30.0
HELPER_SECONDS = 30.0
HELPER_OUTPUT = 64 << 10
PERSIST_RETRY = 30.0


class IdentityError(Exception):
    """The identity file cannot be used."""


def write_file(path: str, data: bytes) -> None:
    """Replace a file (0600) as a whole; OSError leaves the old one in place."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
        folder = os.open(dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


class Identity:
    """Who this sidecar is. `cert` is None until the control plane has signed one.

    `on_change` is called when key, chain or roots were replaced; `on_due` when the certificate should be
    renewed; `on_warning` with a line for the log.
    """

    def __init__(self, loop: Loop, state_dir: str, spiffe_id: str) -> None:
        self._loop = loop
        self._path = join(state_dir, FILE) if state_dir else ""
        self.spiffe_id = spiffe_id
        self.instance = os.urandom(6).hex()
        public, secret = zmq.curve_keypair()
        self.curve_public: bytes = public
        self.curve_secret: bytes = secret
        self.key: bytes = b""
        self.chain: bytes = b""
        self.roots: bytes = b""
        self.issued = 0
        self.not_before = 0
        self.not_after = 0
        self.renew_at = 0.0  # when the certificate is due (Unix time)
        self.generation = 0
        self.persisted = False
        self.on_change: Callable[[], object] = _nothing
        self.on_due: Callable[[], object] = _nothing
        self.on_warning: Callable[[str], object] = _nothing
        self._due: Timer | None = None
        self._retry: Timer | None = None
        self._helper: _Helper | None = None
        self._load()

    @property
    def has_cert(self) -> bool:
        return bool(self.chain)

    def valid(self, now: float | None = None) -> bool:
        """Is there a certificate that peers accept now?"""
        return self.has_cert and (time.time() if now is None else now) < self.not_after

    def _load(self) -> None:
        """Take up what an earlier process kept; another workload's identity is not taken up."""
        if not self._path:
            return
        try:
            with open(self._path, "rb") as file:
                outer = msgpack.unpackb(file.read(1 << 20), raw=False)
            if type(outer) is not dict or outer.get("format") != FORMAT:
                raise ValueError("not an identity of this format")
            # One bit of a key that has turned would keep this sidecar out of the mesh for ever.
            if zlib.crc32(outer["body"]) != outer["crc"]:
                raise ValueError("its checksum is wrong")
            kept = msgpack.unpackb(outer["body"], raw=False)
            values = {name: kept[name] for name in _KEPT}
            if any(type(values[name]) is not kind for name, kind in _KEPT.items()):
                raise ValueError("a field has the wrong type")
        except FileNotFoundError:
            return
        except Exception as error:  # a corrupt file of any kind: say so and join anew
            self._loop.call_later(
                0,
                self._warn,
                f"identity file {self._path} cannot be used ({error}); joining anew",
            )
            return
        if values["spiffe_id"] != self.spiffe_id:
            text = (
                f"identity file {self._path} is {values['spiffe_id']}'s, not {self.spiffe_id}'s; joining anew"
            )
            self._loop.call_later(0, self._warn, text)
            return
        for name, value in values.items():
            setattr(self, name, value)
        self.generation = 1
        self.persisted = True
        self._schedule()

    def _warn(self, line: str) -> None:
        self.on_warning(line)

    def _persist(self) -> None:
        self._retry = None
        if not self._path:
            return
        body: bytes = msgpack.packb({name: getattr(self, name) for name in _KEPT})
        try:
            write_file(self._path, msgpack.packb({"format": FORMAT, "crc": zlib.crc32(body), "body": body}))
            self.persisted = True
        except OSError as error:
            self.persisted = False
            self._warn(f"identity cannot be kept in {self._path}: {error.strerror}; it is served from memory")
            self._retry = self._loop.call_later(PERSIST_RETRY, self._persist)

    def request(self, answer: Answer, *, new_key: bool, nonce: bytes | None = None) -> None:
        """Have the helper make a key and a request (`new_key`) and sign a challenge with the key held
        (`nonce`).

        `answer(made, error)` is called with {"key", "csr", "signature"} as far as asked for, or with None
        and the reason.
        """
        order: dict[str, Any] = {}
        if new_key:
            order["spiffe_id"] = self.spiffe_id
        if nonce is not None:
            order["prove"] = {"key": self.key.decode(), "nonce": nonce.hex()}
        if self._helper is not None:
            self._helper.cancel()
        self._helper = _Helper(self._loop, order, answer)

    def install(
        self, key: bytes, chain: bytes, roots: bytes, issued: int, not_before: int, not_after: int
    ) -> None:
        """Take up a signed certificate with the key that it was asked for with (times in Unix seconds)."""
        self.key, self.chain, self.roots = key, chain, roots
        self.issued, self.not_before, self.not_after = issued, not_before, not_after
        self.generation += 1
        self._persist()
        self._schedule(min(RENEW_LEAST, (not_after - issued) / 20))
        self.on_change()

    def set_roots(self, roots: bytes) -> None:
        """Take up the mesh's roots; nothing happens when they are the same."""
        if roots == self.roots or not self.has_cert:
            return
        self.roots = roots
        self.generation += 1
        self._persist()
        self.on_change()

    def reissue(self, before: int) -> None:
        """Whoever signs has changed: a certificate issued before (Unix time) is due soon."""
        if self.has_cert and self.issued < before and self.renew_at > time.time() + REISSUE_SECONDS:
            life = self.not_after - self.issued
            self.renew_at = time.time() + random.uniform(0, min(REISSUE_SECONDS, life / 20))
            self._watch()

    def _schedule(self, least: float = 0.0) -> None:
        life = self.not_after - self.issued
        self.renew_at = self.issued + life * (RENEW_AT + random.uniform(-RENEW_JITTER, RENEW_JITTER))
        self.renew_at = max(self.renew_at, time.time() + least)
        self._watch()

    def _watch(self) -> None:
        if self._due is not None:
            self._due.cancel()
        left = max(0.0, self.renew_at - time.time())
        self._due = self._loop.call_later(min(left, CLOCK_SECONDS), self._is_due)

    def _is_due(self) -> None:
        if time.time() < self.renew_at:
            self._watch()
            return
        self._due = None
        self.on_due()

    def close(self) -> None:
        """Forget timers and the helper."""
        for timer in (self._due, self._retry):
            if timer is not None:
                timer.cancel()
        if self._helper is not None:
            self._helper.cancel()


class _Helper:
    """One run of keygen.py, watched by the loop. posix_spawn: `subprocess` would cost the agent a megabyte
    for one child a day."""

    def __init__(self, loop: Loop, order: dict[str, Any], answer: Answer) -> None:
        self._loop = loop
        self._answer: Answer | None = answer
        self._output = b""
        self._pid = 0
        to_read, to_write = os.pipe2(os.O_CLOEXEC)
        self._fd, written = os.pipe2(os.O_CLOEXEC)
        # -P: the directory of keygen.py is no place to import modules from.
        command = [sys.executable, "-P", join(dirname(__file__), "keygen.py")]
        actions = [
            (os.POSIX_SPAWN_DUP2, to_read, 0),
            (os.POSIX_SPAWN_DUP2, written, 1),
            (os.POSIX_SPAWN_DUP2, written, 2),
        ]
        try:
            self._pid = os.posix_spawn(
                sys.executable, command, os.environ, file_actions=actions, setsigmask=[], setsigdef=_SIGNALS
            )
            # Far below a pipe's capacity: this never blocks, and its reader is open until the next line.
            os.write(to_write, json.dumps(order).encode())
        except OSError as error:
            text = f"the key helper cannot be started: {error}"
            loop.call_later(0, self._finish, None, text)
            os.close(self._fd)
            return
        finally:
            for fd in (to_read, to_write, written):
                os.close(fd)
        self._timer = loop.call_later(HELPER_SECONDS, self._expired)
        loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        data = os.read(self._fd, 65536)
        self._output += data
        if data and len(self._output) <= HELPER_OUTPUT:
            return
        status = self._end()
        if status != 0:
            self._finish(
                None, f"the key helper failed: {self._output.decode(errors='replace').strip()[-300:]}"
            )
            return
        try:
            made = json.loads(self._output)
            parts: dict[str, Callable[[str], bytes]] = {
                "key": str.encode,
                "csr": bytes.fromhex,
                "signature": bytes.fromhex,
            }
            result = {name: parts[name](value) for name, value in made.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._finish(None, f"the key helper's answer cannot be read: {error}")
            return
        self._finish(result, "")

    def _expired(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._end()
        self._finish(None, f"the key helper did not answer in {HELPER_SECONDS:g} s")

    def _end(self) -> int:
        """Stop watching and reap; the exit status. Whoever closed its output without ending is killed, so
        this cannot wait long."""
        self._loop.remove_reader(self._fd)
        self._timer.cancel()
        os.close(self._fd)
        pid, self._pid = self._pid, 0
        deadline = time.monotonic() + 1.0
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if self._answer is None or time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    def _finish(self, made: dict[str, bytes] | None, error: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(made, error)

    def cancel(self) -> None:
        """End the helper; its answer is not called."""
        self._answer = None
        if self._pid:
            self._end()


_SIGNALS = [
    n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)
]  # back to their defaults in the helper


def _nothing(*_: object) -> None:
    """For callbacks that nobody has set."""


_KEPT: dict[str, type] = {
    "spiffe_id": str,
    "instance": str,
    "curve_public": bytes,
    "curve_secret": bytes,
    "key": bytes,
    "chain": bytes,
    "roots": bytes,
    "issued": int,
    "not_before": int,
    "not_after": int,
}
