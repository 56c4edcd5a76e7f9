"""The CLI against a control plane: what it prints, what it writes, its exit statuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
import yaml

from helpers import free_port, wait_for
from helpers.procs import environment
from integration.controlplane import ControlPlane, TestAgent
from integration.test_control_plane import REVIEWS, split

COMMANDS = ("control", "token create", "token list", "token delete", "apply", "get", "delete")
COMMANDS = (*COMMANDS, "proxy-status", "proxy-config")


def fastmesh(*args: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastmesh", *map(str, args)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, env=environment(env), check=False
    )


@pytest.fixture
def plane(spawn, tmp_path):
    return ControlPlane(spawn, tmp_path)


@pytest.fixture
def cli(plane) -> Any:
    def run(*args: object, status: int = 0, stdin: str = "") -> str:
        done = fastmesh(*args, stdin=stdin, FASTMESH_STATE=str(plane.state))
        assert done.returncode == status, (args, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_example(command):
    done = fastmesh(*command.split(), "--help")
    assert done.returncode == 0 and "example" in done.stdout and f"fastmesh {command}" in done.stdout


def test_a_day_in_the_life(spawn, plane, cli, tmp_path):
    bundle = tmp_path / "join.json"
    cli("token", "create", "--service", "reviews", "--ttl", "1h", "--output", bundle)
    assert bundle.stat().st_mode & 0o777 == 0o600 and "reviews" in cli("token", "list")
    agent = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    wait_for(lambda: plane.endpoints("reviews") == {16001}, what="the endpoint")

    assert "virtualservice/reviews created" in cli("apply", "-f", "-", "--wait", stdin=split(95))
    assert "virtualservice/reviews unchanged" in cli("apply", "-f", "-", stdin=split(95))
    done = json.loads(cli("apply", "-f", "-", "-o", "json", stdin=split(50)))
    assert done["topics"][REVIEWS] == done["version"]

    assert "reviews" in cli("get", "vs") and "127.0.0.1:16001" in cli("get", "services")
    shown = yaml.safe_load(cli("get", "virtualservice", "reviews", "-o", "yaml"))
    assert shown["spec"]["http"][0]["route"][0]["weight"] == 50
    assert "unchanged" in cli("apply", "-f", "-", stdin=yaml.safe_dump(shown))
    assert json.loads(cli("get", "dr", "-A", "-o", "json"))["items"][0]["metadata"]["name"] == "reviews"
    assert cli("get", "vs", "-n", "other").splitlines()[1:] == []
    assert "does not exist" in cli("get", "vs", "nope", status=1)

    cli("apply", "-f", "-", "--wait", stdin=split(50))
    status = cli("proxy-status").splitlines()
    assert agent.instance in status[1] and "SYNCED" in status[1] and "3/3" in status[1]
    (proxy,) = json.loads(cli("proxy-status", "-o", "json"))["items"]
    assert (
        proxy["identity"] == "spiffe://cluster.local/ns/default/sa/reviews"
        and proxy["status"]["workers"] == 2
    )
    report = json.loads(cli("proxy-config", proxy["name"], "clusters"))
    assert report["what"] == "clusters" and REVIEWS in report["versions"] and report["pem"] == "x"
    assert "not connected" in cli("proxy-config", "nope", status=1)

    agent.process.signal(signal.SIGSTOP)
    late = cli("apply", "-f", "-", "--wait", "--timeout", "1s", stdin=split(20), status=4)
    assert f"reviews-{agent.instance}.default is late" in late
    assert "LATE (1)" in cli("proxy-status")
    agent.process.signal(signal.SIGCONT)

    assert "deleted" in cli("delete", "vs", "reviews", "--wait")
    assert "does not exist" in cli("delete", "vs", "reviews", status=1)
    cli("delete", "vs", "reviews", "--ignore-not-found")
    assert "destinationrule/reviews deleted" in cli("delete", "-f", "-", "--ignore-not-found", stdin=split(1))
    assert "has endpoints" in cli("delete", "service", "reviews", status=1)


def test_a_redirected_bundle_is_private(plane, tmp_path):
    path = tmp_path / "join.json"
    command = [
        sys.executable,
        "-m",
        "fastmesh",
        "token",
        "create",
        "--service",
        "reviews",
        "--state",
        plane.state,
    ]
    with path.open("w") as file:
        subprocess.run(command, stdout=file, check=True, env=environment(), timeout=60)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["service"] == "reviews"


def test_a_directory_is_applied_whole_or_not_at_all(plane, cli, tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "a.yaml").write_text(split(95))
    (folder / "b.yaml").write_text(split(5).replace("hosts", "hostz"))
    (folder / "ignored.txt").write_text("no config")
    told = cli("apply", "-f", folder, status=1)
    assert f"{folder}/b.yaml:" in told and "spec.hostz" in told
    assert cli("get", "vs").splitlines()[1:] == []
    (folder / "b.yaml").unlink()
    assert "(dry run)" in cli("apply", "-f", folder, "--dry-run")
    assert cli("get", "vs").splitlines()[1:] == []
    assert cli("apply", "-f", folder).count("created") == 2


def test_exit_statuses_tell_what_was_wrong(plane, cli, tmp_path):
    assert fastmesh("get", "services", FASTMESH_STATE="").returncode == 2
    assert "--state DIR" in fastmesh("get", "services", FASTMESH_STATE="").stderr
    assert "been started?" in fastmesh("get", "services", "--state", "/nonexistent").stderr
    cli("apply", "-f", tmp_path / "missing.yaml", status=2)
    cli("delete", status=2)
    cli("get", "nonsense", status=1)
    cli("token", "create", "--service", "No Name", status=1)
    wrong = tmp_path / "token"
    wrong.write_text("wrong")
    url = f"http://127.0.0.1:{plane.api}"
    assert "bearer token" in cli("get", "services", "--control", url, "--token-file", wrong, status=1)
    plane.kill()
    assert "cannot be reached" in cli("get", "services", status=3)


@pytest.mark.parametrize("busy", ["listen", "publish", "api"])
def test_a_control_plane_that_cannot_listen_says_so(tmp_path, busy):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"listen": free_port(), "publish": free_port(), "api": free_port()}
        ports[busy] = taken.getsockname()[1]
        options = [f"--{name}=127.0.0.1:{port}" for name, port in ports.items()]
        done = fastmesh("control", "--state", tmp_path / "state", *options)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(rf"cannot listen on 127.0.0.1:{ports[busy]}: .*in use$", done.stderr, re.M), done.stderr


def test_addresses_are_checked_before_anything_is_made(tmp_path):
    done = fastmesh("control", "--state", tmp_path / "state", "--listen", "nonsense")
    assert done.returncode == 2 and "HOST:PORT" in done.stderr and not (tmp_path / "state").exists()
