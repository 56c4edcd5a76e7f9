"""`fastmesh init`: real rules on hosts of their own, by nftables and by iptables."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fastmesh.intercept.check import original
from helpers.netns import APP_USER, Host, Net, lacking, run
from helpers.procs import ROOT, environment

needs_hosts = pytest.mark.skipif(bool(lacking()), reason=lacking() or "-")
BACKENDS = ("nft", "iptables")


def init(*arguments: str, host: Host | None = None) -> subprocess.CompletedProcess[str]:
    inside = ["ip", "netns", "exec", host.name] if host is not None else []
    return subprocess.run(
        [*inside, sys.executable, "-m", "fastmesh", "init", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        cwd=ROOT,
        check=False,
    )


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with Net(2) as made:
        yield made


def listening(host: Host, address: str, port: int) -> socket.socket:
    with host.inside():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.create_server((address, port), family=family)
        made.settimeout(10)
        return made


def arrives(host: Host, user: int, to: tuple[str, int], at: socket.socket) -> tuple[str, int] | None:
    """Whom a connection that arrived there was for; None: it was for that very place."""
    with host.inside(user=user):
        client = socket.create_connection(to, 10)
    with client, at.accept()[0] as served:
        try:
            family = 6 if at.family == socket.AF_INET6 else 4
            found = original(served, family)
        except OSError:
            return None
        return None if found == served.getsockname()[:2] else found


@needs_hosts
@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_come_work_and_go(hosts: list[Host], backend: str) -> None:
    a, b = hosts
    for _ in range(2):  # again: they replace themselves
        done = init("--backend", backend, "--check", "-o", "json", "-q", "7777", host=a)
        assert done.returncode == 0, done
        made: dict[str, Any] = json.loads(done.stdout)
        assert made["backend"] == backend and len(made["checks"]) == 4
        assert all(check["good"] and check["tried"] for check in made["checks"]), made
    with (
        listening(a, "127.0.0.1", 15001) as out4,
        listening(a, "::1", 15001) as out6,
        listening(a, "0.0.0.0", 15006) as in4,
        listening(a, "::", 15006) as in6,
        listening(a, a.ip4, 2200) as other,
        listening(b, b.ip4, 7777) as far,
    ):
        assert arrives(a, APP_USER, (b.ip4, 80), out4) == (b.ip4, 80)
        assert arrives(a, 0, (b.ip6, 443), out6) == (b.ip6, 443)
        assert arrives(b, 0, (a.ip4, 9080), in4) == (a.ip4, 9080)
        assert arrives(b, 0, (a.ip6, 9081), in6) == (a.ip6, 9081)
        # what is left alone: ports that are named, the host itself, the proxy
        assert arrives(a, APP_USER, (b.ip4, 7777), far) is None
        assert arrives(a, APP_USER, (a.ip4, 2200), other) is None
        assert arrives(b, 0, (a.ip4, 15006), in4) is None
        with a.inside(user=1337), pytest.raises(ConnectionRefusedError):
            socket.create_connection((b.ip4, 80), 10)
        for _ in range(2):
            assert init("--backend", backend, "--remove", host=a).returncode == 0
        with a.inside(user=APP_USER), pytest.raises(ConnectionRefusedError):
            socket.create_connection((b.ip4, 80), 10)
        assert arrives(b, 0, (a.ip4, 2200), other) is None


@needs_hosts
@pytest.mark.parametrize("backend", BACKENDS)
def test_some_ports_and_networks_alone(hosts: list[Host], backend: str) -> None:
    a, b = hosts
    rules = (
        "-b",
        "9080,9443",
        "-i",
        "10.77.0.0/16,fd77::/64",
        "-x",
        f"{b.ip6}/128",
        "-p",
        "16001",
        "-z",
        "16006",
    )
    assert init("--backend", backend, *rules, host=a).returncode == 0
    try:
        with (
            listening(a, "127.0.0.1", 16001) as out4,
            listening(a, "0.0.0.0", 16006) as in4,
            listening(a, a.ip4, 2201) as other,
            listening(b, b.ip6, 80) as far,
        ):
            assert arrives(a, APP_USER, (b.ip4, 80), out4) == (b.ip4, 80)
            assert arrives(a, APP_USER, (b.ip6, 80), far) is None
            assert arrives(b, 0, (a.ip4, 9443), in4) == (a.ip4, 9443)
            assert arrives(b, 0, (a.ip4, 2201), other) is None
    finally:
        assert init("--backend", backend, "--remove", host=a).returncode == 0


@needs_hosts
def test_what_cannot_be_tried_is_not_called_good() -> None:
    with Net(1) as (alone,):
        run("ip", "-n", alone.name, "route", "del", "default")
        run("ip", "-n", alone.name, "-6", "route", "del", "default")
        done = init("--check", host=alone)
    assert done.returncode == 0
    assert done.stdout.count("not tried  IPv") == 4 and "ok" not in done.stdout


@needs_hosts
def test_rules_that_do_not_work_are_126(hosts: list[Host]) -> None:
    # port 80 is what the check calls
    done = init("--check", "-q", "80", host=hosts[0])
    assert done.returncode == 126, done
    assert "FAILED  IPv4: an application's connection arrives at port 15001" in done.stdout
    assert init("--remove", host=hosts[0]).returncode == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dry_run_prints_the_rules(backend: str) -> None:
    done = init("--dry-run", "--backend", backend, "-x", "169.254.169.254/32")
    assert done.returncode == 0
    for word in ("15001", "15006", "1337", "169.254.169.254", "22"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "0"], "--envoy-port: '0' is not a port"),
        (["-p", "1,2"], "--envoy-port: one port is wanted, not '1,2'"),
        (["-p", "15006"], "--envoy-port and --inbound-capture-port are the same"),
        (["-u", "root"], "--proxy-uid: 'root' is not a number of a user or a group"),
        (["-u", "", "-g", ""], "one of them is needed, or the proxy would call itself"),
        (["-x", "10.0.0.1/8"], "--outbound-exclude-cidrs: 10.0.0.1/8 has host bits set"),
        (["-b", "x"], "--inbound-ports: 'x' is not a port"),
        (["--remove", "--dry-run"], "not allowed with argument"),
    ],
)
def test_wrong_input_changes_nothing(arguments: list[str], said: str) -> None:
    done = init(*arguments)
    assert done.returncode == 2 and said in done.stderr, done
