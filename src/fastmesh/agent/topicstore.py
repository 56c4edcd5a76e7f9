"""The topics that a sidecar holds: their versions, what arrived out of order, and the copy on disk.

Owns the rules by which updates and snapshots change the store (nothing is guessed: an update that does not
follow on what is held is a gap, and the topic is asked for) and the file that lets a sidecar start while
the control plane is away. It must not know sockets.
"""

from __future__ import annotations

import os
import zlib

import msgpack

from fastmesh.agent.certs import write_file
from fastmesh.model.wire import (
    CLOSED,
    MAX_TOPICS,
    TRUST,
    WireError,
    checksum,
    digest,
    effective_limits,
    effective_mtls,
    effective_policies,
    unpack_payload,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

FILE = "topics"
FORMAT = 1
FILE_LIMIT = 256 << 20
TOMBSTONES = 4096  # removed topics remembered, so that a late duplicate cannot bring one back

APPLIED, DUPLICATE, GAP = "applied", "duplicate", "gap"


class TopicStore:
    """topic -> (version, checksum, payload)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.epoch = ""
        self.topics: dict[str, tuple[int, int, bytes]] = {}
        self.good: dict[
            str, tuple[int, int, bytes]
        ] = {}  # what the workers served last: this is kept on disk
        self._removed: dict[str, int] = {}

    def known(self, only: Iterable[str] | None = None) -> dict[str, list[int]]:
        """What a sync request says of the topics held."""
        wanted = self.topics if only is None else [topic for topic in only if topic in self.topics]
        return {topic: [self.topics[topic][0], self.topics[topic][1]] for topic in wanted}

    def versions(self) -> dict[str, int]:
        return {topic: held[0] for topic, held in self.topics.items()}

    def digest(self) -> int:
        return digest((topic, version, crc) for topic, (version, crc, _) in self.topics.items())

    def update(self, topic: str, version: int, prev: int, payload: bytes | None) -> str:
        """Apply an update if it follows on what is held (`prev`: the version before it, 0 for none)."""
        held = self.topics.get(topic)
        current = held[0] if held else 0
        if version <= max(current, self._removed.get(topic, 0)):
            return DUPLICATE
        if prev != current or (current == 0 and payload is not None and len(self.topics) >= MAX_TOPICS):
            return GAP
        self._put(topic, version, payload)
        return APPLIED

    def _put(self, topic: str, version: int, payload: bytes | None) -> None:
        if payload is None:
            self.topics.pop(topic, None)
            self._removed[topic] = version
            if len(self._removed) > TOMBSTONES:
                del self._removed[next(iter(self._removed))]
        else:
            self._removed.pop(topic, None)
            self.topics[topic] = (version, checksum(payload), payload)

    def snapshot(
        self, made_at: int, topics: dict[str, tuple[int, bytes]], removed: list[str], whole: bool
    ) -> bool:
        """Apply a snapshot (or a part of one) made at version `made_at`; True if anything changed.

        With `whole` the snapshot is the truth, whatever is held: it is the first of a session, and the
        control plane's versions may have begun anew. Otherwise what is held and newer stays: an update has
        overtaken the snapshot.
        """
        changed = False
        for topic, (version, payload) in topics.items():
            held = self.topics.get(topic)
            if held and (held[:2] == (version, checksum(payload)) or (not whole and held[0] > version)):
                continue
            if not whole and self._removed.get(topic, 0) > version:
                continue
            self._put(topic, version, payload)
            changed = True
        for topic in removed:
            held = self.topics.get(topic)
            if held and (whole or held[0] <= made_at):
                self._put(topic, made_at, None)
                changed = True
        return changed

    def begin_epoch(self, epoch: str) -> None:
        """A new lineage of versions: what was removed in the old one says nothing any more."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._removed.clear()

    def desired(self, info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """All topics as one state for the sidecar that `info` describes, and why which are unreadable."""
        state: dict[str, Any] = {
            "services": {},
            "policy": {"mtls": "strict", "limits": [], "authorization": [CLOSED]},
            "trust": {},
        }
        labels = {"app": info["service"], **info.get("labels", {})}
        bad: dict[str, str] = {}
        for topic, (_, _, payload) in self.topics.items():
            try:
                data = unpack_payload(payload)
            except WireError as error:
                bad[topic] = str(error)
                continue
            if topic.startswith("svc/"):
                state["services"][topic] = data
            elif topic.startswith("ns/"):
                state["policy"]["mtls"] = effective_mtls(data, labels, info["app_port"])
                state["policy"]["limits"] = effective_limits(data, labels)
                state["policy"]["authorization"] = effective_policies(data, labels)
            elif topic == TRUST:
                state["trust"] = data
        return {**state, "versions": self.versions(), "epoch": self.epoch}, bad

    def served(self, versions: dict[str, int]) -> bool:
        """Note what the workers serve; of a topic that they refuse, what they served before stays. True if
        this alters what is to be kept."""
        good = {
            topic: held if held[0] == versions.get(topic) else self.good[topic]
            for topic, held in self.topics.items()
            if held[0] == versions.get(topic) or topic in self.good
        }
        changed = good != self.good
        self.good = good
        return changed

    def save(self) -> None:
        """Keep a copy on disk; OSError leaves the old copy. Without a path nothing is kept."""
        if not self.path:
            return
        content = {
            "epoch": self.epoch,
            "topics": {t: [version, payload] for t, (version, _, payload) in self.good.items()},
        }
        body: bytes = msgpack.packb(content)
        write_file(self.path, msgpack.packb({"format": FORMAT, "crc": zlib.crc32(body), "body": body}))

    def load(self) -> str:
        """Take up the copy on disk. "" when that went well or there is none, else why it cannot be used."""
        if not self.path:
            return ""
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size > FILE_LIMIT:
                    return "it is too large"
                outer: Any = msgpack.unpackb(file.read(), raw=False)
            if (
                type(outer) is not dict
                or outer.get("format") != FORMAT
                or zlib.crc32(outer["body"]) != outer["crc"]
            ):
                return "its checksum is wrong"
            content: Any = msgpack.unpackb(outer["body"], raw=False)
            for topic, (version, payload) in content["topics"].items():
                self.topics[topic] = (version, checksum(payload), payload)
            self.epoch = content["epoch"]
            self.good = dict(self.topics)
        except FileNotFoundError:
            return ""
        except Exception as error:  # whatever is wrong with it: the control plane has it all
            self.topics.clear()
            return f"{type(error).__name__}: {error}"
        return ""
