"""Hosts for tests: network namespaces on one link, with IPv4 and IPv6.

with Net(2) as (a, b):
    with a.inside(): ...             sockets made and processes started here are of host a
    with a.inside(user=APP_USER):    ... and sockets are that user's, as the packet filter sees it
    a.redirect()                     `fastmesh init`
"""

from __future__ import annotations

import contextlib
import ctypes
import encodings.idna  # noqa: F401  (looked for when an address is, which another user may not be able to read)
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType

from helpers.procs import environment

APP_USER = 65534
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def lacking() -> str:
    """Why there can be no such hosts here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (iproute2, nftables)"
    name = f"fm{os.getpid()}try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces: {tried.stderr.strip()}"
    try:
        rules = (
            "add table inet t; add chain inet t c { type nat hook output priority -100; }; "
            "add rule inet t c tcp dport 1 redirect to :2"
        )
        command = ["ip", "netns", "exec", name, "nft", rules]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"no NAT: {tried.stderr.strip()}" if tried.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def run(*command: str, text: str = "") -> None:
    subprocess.run(command, input=text, text=True, check=True)


class Host:
    """A network namespace."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.ip4, self.ip6 = f"10.77.0.{number}", f"fd77::{number}"

    @contextlib.contextmanager
    def inside(self, user: int = 0) -> Iterator[None]:
        """The calling thread is of this host."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as here:
            self._enter(here.fileno())
            _libc.setfsuid(user)
            try:
                yield
            finally:
                _libc.setfsuid(0)
                self._enter(before.fileno())

    def _enter(self, fd: int) -> None:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns: {self.name}")

    def redirect(self, *not_inbound: int) -> None:
        """As on a host whose proxies are root's; inbound but for ports that are named."""
        excluded = ",".join(map(str, not_inbound))
        rules = ("init", "-u", "0", "-g", "", "-d", excluded)
        inside = ("ip", "netns", "exec", self.name, sys.executable, "-m", "fastmesh")
        subprocess.run([*inside, *rules], env=environment(), check=True)


class Net:
    """Hosts that reach each other."""

    def __init__(self, count: int) -> None:
        self.bridge = f"fm{os.getpid()}b{next(_numbers)}"
        self.hosts = [Host(f"{self.bridge}h{i}", i) for i in range(1, count + 1)]

    def __enter__(self) -> list[Host]:
        run("ip", "netns", "add", self.bridge)
        inside = ("ip", "-n", self.bridge)
        run(*inside, "link", "add", "br0", "type", "bridge")
        run(*inside, "link", "set", "br0", "up")
        for i, host in enumerate(self.hosts):
            run("ip", "netns", "add", host.name)
            run(*inside, "link", "add", f"v{i}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            run(*inside, "link", "set", f"v{i}", "master", "br0", "up")
            own = ("ip", "-n", host.name)
            run(*own, "link", "set", "lo", "up")
            run(*own, "link", "set", "eth0", "up")
            run(*own, "addr", "add", f"{host.ip4}/24", "dev", "eth0")
            run(*own, "addr", "add", f"{host.ip6}/64", "dev", "eth0", "nodad")
            run(*own, "route", "add", "default", "via", "10.77.0.254")
            run(*own, "-6", "route", "add", "default", "via", "fd77::fe")
        return self.hosts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in (*(host.name for host in self.hosts), self.bridge):
            run("ip", "netns", "del", name)
