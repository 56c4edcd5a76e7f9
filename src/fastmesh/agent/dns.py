"""Addresses of endpoints that are named by host: resolved in threads, refreshed, the last good ones kept.

Owns what is known of each host name. Python's resolver blocks and tells no TTL, hence threads and a fixed
interval.
"""

from __future__ import annotations

import _socket
import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.agent.loop import Loop, Timer
    from fastmesh.model.ir import Config
    from fastmesh.supervisor.log import Log

# getaddrinfo does not tell the TTL; Envoy's default interval is 5 s.
REFRESH_SECONDS = 10.0
# A name that never resolved is asked for sooner.
RETRY_SECONDS = 2.0
# Lookups at once; a dead name server holds each of them for many seconds.
THREADS = 4


def is_ip(text: str) -> bool:
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
            return True
        except OSError:
            continue
    return False


def lookup(host: str) -> tuple[list[str], str]:
    """(addresses, sorted; why there are none)."""
    try:
        # Bytes: for a str Python loads its IDNA codec and a megabyte of tables, which a wire-form name does
        # not need.
        found = _socket.getaddrinfo(host.encode("ascii"), None, 0, _socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [], getattr(error, "strerror", None) or str(error)
    # Without those that are of one link only (fe80::1%eth0): no config can hold them.
    addresses = sorted({str(entry[4][0]) for entry in found if is_ip(str(entry[4][0]))})
    return addresses, "" if addresses else "it has no address that is not of one link only"


class Resolver:
    """The hosts of the config in force. `on_change` is called when a name's addresses are others than
    before."""

    def __init__(self, loop: Loop, log: Log, on_change: Callable[[], object]) -> None:
        self.known: dict[str, list[str]] = {}
        self.failures = 0
        self._loop = loop
        self._log = log
        self._on_change = on_change
        self._wanted: set[str] = set()
        self._failing: set[str] = set()
        self._queue: list[str] = []
        self._busy: set[str] = set()
        self._timers: dict[str, Timer] = {}

    def substitute(self, config: Config) -> Config:
        """As `addressed`; the names of this config are the ones that are resolved from now on."""
        wanted = {e["address"] for cluster in config["clusters"] for e in cluster["endpoints"]}
        self._want({host for host in wanted if not is_ip(host)})
        return self.addressed(config)

    def addressed(self, config: Config) -> Config:
        """A copy of the config with addresses where it has names. A name that is not known yet has no
        endpoint until it is. Of endpoints with the same address and port in a cluster the first counts."""
        clusters: list[Any] = []
        for cluster in config["clusters"]:
            endpoints: dict[tuple[str, int], Any] = {}
            for endpoint in cluster["endpoints"]:
                host, port = endpoint["address"], endpoint["port"]
                if is_ip(host):
                    endpoints.setdefault((host, port), endpoint)
                else:
                    for address in self.known.get(host, ()):
                        endpoints.setdefault((address, port), {**endpoint, "address": address, "host": host})
            clusters.append({**cluster, "endpoints": list(endpoints.values())})
        return {**config, "clusters": clusters}

    def _want(self, wanted: set[str]) -> None:
        for host in self._wanted - wanted:
            self.known.pop(host, None)
            self._failing.discard(host)
            if host in self._timers:
                self._timers.pop(host).cancel()
        new = wanted - self._wanted
        self._wanted = wanted
        for host in sorted(new):
            self._ask(host)

    def _ask(self, host: str) -> None:
        self._timers.pop(host, None)
        if host in self._wanted and host not in self._busy and host not in self._queue:
            self._queue.append(host)
            self._start()

    def _start(self) -> None:
        while self._queue and len(self._busy) < THREADS:
            host = self._queue.pop(0)
            self._busy.add(host)
            try:
                _thread.start_new_thread(self._work, (host,))
            except RuntimeError as error:  # the system has no thread left: asked again like one that failed
                self._loop.call_soon(self._answered, host, [], str(error))
                return

    def _work(self, host: str) -> None:
        """In a thread of its own."""
        addresses, reason = lookup(host)
        self._loop.call_soon_threadsafe(self._answered, host, addresses, reason)

    def _answered(self, host: str, addresses: list[str], reason: str) -> None:
        self._busy.discard(host)
        self._start()
        if host not in self._wanted:
            return
        if reason:
            self.failures += 1
            if host not in self._failing:
                self._failing.add(host)
                kept = (
                    "the last addresses stay"
                    if host in self.known
                    else "it has no endpoint until it resolves"
                )
                self._log.warning(f"{host} cannot be resolved: {reason}; {kept}")
        else:
            if host in self._failing:
                self._failing.discard(host)
                self._log.info(f"{host} resolves again", addresses=",".join(addresses))
            if self.known.get(host) != addresses:
                self.known[host] = addresses
                self._on_change()
        delay = REFRESH_SECONDS if host in self.known else RETRY_SECONDS
        self._timers[host] = self._loop.call_later(delay, self._ask, host)
