"""Ports on 127.0.0.1 and waiting with a deadline."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Below the kernel's range for outgoing connections (32768-60999), so that no client socket takes a port
# between the moment it is handed out here and the moment that the process under test binds it.
_LOW, _HIGH = 10240, 32768
_random = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody is bound to; never the same twice in one test process."""
    for _ in range(1000):
        port = _random.randrange(_LOW, _HIGH)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free port on 127.0.0.1")


def wait_for(predicate: Callable[[], T], timeout: float = 10.0, what: str = "", interval: float = 0.02) -> T:
    """The first true value of `predicate`; AssertionError when none came in time.

    An OSError (a refused connection, say) counts as "not yet".
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            value = predicate()
            if value:
                return value
            last = value
        except OSError as error:
            last = error
        if time.monotonic() > deadline:
            named = what or getattr(predicate, "__name__", "condition")
            raise AssertionError(f"waited {timeout:g} s in vain for {named}; last: {last!r}")
        time.sleep(interval)


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Does something accept connections there?"""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def wait_port(port: int, timeout: float = 10.0, host: str = "127.0.0.1") -> None:
    """Wait until something listens on the port."""
    wait_for(lambda: port_open(port, host), timeout, f"a listener on {host}:{port}")
