"""`fastmesh run`: an application's life in the mesh, with real applications, sidecars and control plane."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, port_open, wait_for
from helpers.app import App, Existing
from helpers.mesh import Load, Mesh, Sidecar, running
from helpers.procs import Process, environment

# The applications: each writes what it does to stdout, with the environment and the signals that it gets.
SERVER = """
import http.server, os, signal, sys, threading, time
port, delay, at_term = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
print("started", flush=True)
def note(number, frame):
    print("signal", signal.Signals(number).name, flush=True)
    if number in (signal.SIGTERM, signal.SIGINT):
        if at_term == "leave": os._exit(7)
for name in ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "WINCH"):
    signal.signal(getattr(signal, "SIG" + name), note)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/sleep/"):
            print("sleeping", flush=True)
            time.sleep(float(self.path[7:]))
        if self.path == "/crash": os.kill(os.getpid(), signal.SIGSEGV)
        if self.path == "/exit": os._exit(3)
        body = b"hello"
        self.send_response(503 if self.path == "/health" and time.time() < ready else 200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-app", "served")
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *args): pass
time.sleep(delay)
ready = time.time() + 1
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
Server(("127.0.0.1", port), Handler).serve_forever()
"""


class Run(Sidecar):
    """`fastmesh run` and its application."""

    def command_for(self, mesh: Mesh, program: list[Any], *options: str, port: int = 0) -> list[Any]:
        return [
            "fastmesh", "run", "--join", mesh.bundle(self.service), "--service", self.service,
            *(["--app-port", str(port)] if port else []), "--inbound", f"127.0.0.1:{self.inbound}",
            "--outbound", f"127.0.0.1:{self.outbound}", "--admin", f"127.0.0.1:{self.admin}",
            "--state", self.state, "--access-log", self.log, "--access-log-format", "json",
            *options, "--", *program,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("run")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def web(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("web", app=App("web"))


@pytest.fixture
def start(mesh: Mesh, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def begin(service: str, program: list[Any], *options: str, port: int = 0) -> Run:
        made = Run(tmp_path, f"{service}-{len(started)}", service, Existing(service, port))
        made.command = made.command_for(mesh, program, *options, port=port)
        made.process = Process(made.command, tmp_path, name=made.name)
        started.append(made)
        return made

    yield begin
    for made in started:
        if made.process.alive:
            made.process.signal(signal.SIGTERM)
            made.process.signal(signal.SIGTERM)
        try:
            made.process.wait(20)
        finally:
            made.process.kill()
            print(made.process.report())


def server(port: int, delay: float = 0, at_term: str = "leave") -> list[Any]:
    return [sys.executable, "-c", SERVER, str(port), str(delay), at_term]


def test_an_application_starts_when_the_sidecar_is_ready_and_is_listed_when_it_listens(
    mesh: Mesh, web: Sidecar, start: Callable[..., Run]
) -> None:
    port = free_port()
    run = start("slow", server(port, 1.5), port=port)
    run.process.wait_output("^started$", 40)
    assert run.view("/ready") == (200, "LIVE\n"), "before the application did anything"
    assert not port_open(port)
    assert mesh.listed("slow") == set()
    assert run.info()["control_plane"]["application"].startswith("not advertised")
    mesh.reaches(web, "slow", run)
    assert port_open(port), "no request finds it closed"
    assert web.get("slow").body == b"hello"
    assert run.process.stop(30) == 7, "the status is the application's"
    assert not port_open(run.inbound)


def test_a_path_decides_when_an_application_is_listed(
    mesh: Mesh, web: Sidecar, start: Callable[..., Run]
) -> None:
    port = free_port()
    run = start("healthy", server(port), "--app-health", "/health", port=port)
    wait_for(lambda: port_open(port), 40, "the application")
    said = wait_for(
        lambda: "503" in (t := run.info()["control_plane"]["application"]) and t,
        10,
        "a probe that was refused",
    )
    assert said == "not advertised: /health answered 'HTTP/1.1 503'"
    assert mesh.listed("healthy") == set()
    mesh.reaches(web, "healthy", run)
    assert run.process.stop(30) == 7


def test_requests_in_flight_end_before_the_application_is_told(
    mesh: Mesh, web: Sidecar, start: Callable[..., Run]
) -> None:
    """It leaves at once when it gets TERM, and yet nothing is lost while it is rolled."""
    ports = [free_port(), free_port()]
    runs = [start("rolled", server(port), port=port) for port in ports]
    mesh.reaches(web, "rolled", *runs)
    with (
        Load(web.outbound, "rolled", "/sleep/0.05", clients=3) as load,
        Load(web.outbound, "rolled", "/", clients=2, pause=0.02, method="POST") as posts,
    ):
        for index in (0, 1):
            runs[index].process.signal(signal.SIGTERM)
            assert runs[index].process.wait(30) == 7
            load.more(10)
            runs[index] = start("rolled", server(ports[index]), port=ports[index])
            mesh.reaches(web, "rolled", *runs)
            load.more(20)
    assert load.bad == posts.bad == []


def test_a_drain_that_takes_too_long_is_cut(mesh: Mesh, web: Sidecar, start: Callable[..., Run]) -> None:
    port = free_port()
    run = start("held", server(port), "--drain", "1s", port=port)
    mesh.reaches(web, "held", run)
    client = subprocess.Popen(
        [sys.executable, "-c", "import sys, urllib.request as u; "
         f"u.urlopen(u.Request('http://127.0.0.1:{web.outbound}/sleep/30', headers={{'Host': 'held'}}))"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run.process.wait_output("^sleeping$")
        assert run.process.stop(20) == 7
        assert "still in flight" in run.process.stderr
    finally:
        client.kill()
        client.wait()


def test_signals_are_passed_on(start: Callable[..., Run]) -> None:
    port = free_port()
    run = start("signals", server(port), port=port)
    wait_for(lambda: port_open(port), 40, "the application")
    for name in ("HUP", "USR1", "USR2", "QUIT", "WINCH", "INT"):
        run.process.signal(getattr(signal, f"SIG{name}"))
        run.process.wait_output(f"^signal SIG{name}$")
    assert run.process.wait(30) == 7
    assert run.process.stdout.count("SIGINT") == 1


def test_an_application_that_ignores_term_is_killed(start: Callable[..., Run]) -> None:
    port = free_port()
    run = start("deaf", server(port, at_term="stay"), "--grace", "500ms", port=port)
    wait_for(lambda: port_open(port), 40, "the application")
    assert run.process.stop(30) == 128 + 9
    assert "signal SIGTERM" in run.process.stdout


def test_term_again_kills(start: Callable[..., Run]) -> None:
    port = free_port()
    run = start("twice", server(port, at_term="stay"), port=port)
    wait_for(lambda: port_open(port), 40, "the application")
    run.process.signal(signal.SIGTERM)
    run.process.wait_output("^signal SIGTERM$")
    assert run.process.stop(30) == 128 + 9


@pytest.mark.parametrize(("path", "status"), [("/crash", 128 + 11), ("/exit", 3)])
def test_a_crash_is_the_exit_status(start: Callable[..., Run], path: str, status: int) -> None:
    port = free_port()
    run = start("crashes", server(port), port=port)
    wait_for(lambda: port_open(port), 40, "the application")
    subprocess.run(
        [sys.executable, "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}{path}')"],
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert run.process.wait(30) == status


def test_a_job_uses_the_mesh_and_completes(mesh: Mesh, start: Callable[..., Run]) -> None:
    """With the environment alone: Python's own client finds the sidecar by http_proxy."""
    ratings = mesh.sidecar("ratings", app=App("ratings"))
    get = "urllib.request.urlopen('http://ratings/job').headers['x-app']"
    job = f"import sys, urllib.request; print({get}); sys.exit(4)"
    run = start("job", [sys.executable, "-c", job])
    assert run.process.wait(60) == 4
    assert run.process.stdout == "ratings\n"
    assert mesh.listed("job") == set()
    assert ratings.app.seen[-1]["path"] == "/job"
    assert not port_open(run.outbound) and not port_open(run.admin)


def test_the_environment_can_be_left_alone(start: Callable[..., Run]) -> None:
    show = "import os; print(os.environ.get('http_proxy'), os.environ.get('FASTMESH_SPEC_FD'))"
    run = start("plain", [sys.executable, "-c", show], "--no-proxy-env")
    assert run.process.wait(60) == 0
    assert run.process.stdout == f"{os.environ.get('http_proxy')} None\n"


def test_children_are_part_of_the_application(start: Callable[..., Run]) -> None:
    """The shell ends, what it has started has not: it is told, and the sidecar waits for it."""
    port = free_port()
    line = f'"{sys.executable}" -c "$0" {port} 0 leave & echo child $!; sleep 0.2'
    run = start("forks", ["sh", "-c", line, SERVER], port=port)
    pid = int(run.process.wait_output(r"^child (\d+)$", 40)[1])
    assert run.process.wait(40) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_sidecar_that_dies_is_replaced_while_the_application_goes_on(
    mesh: Mesh, web: Sidecar, start: Callable[..., Run]
) -> None:
    port = free_port()
    run = start("lives", server(port), port=port)
    mesh.reaches(web, "lives", run)
    arbiter = int(re.findall(r"\d+", str(run.info()["arbiter_pid"]))[0])
    os.kill(arbiter, signal.SIGKILL)
    run.process.wait_output("it is replaced in")
    wait_for(lambda: "served" in web.get("lives").headers.values(), 40, "the application again")
    assert run.process.stdout.count("started") == 1
    assert run.process.stop(30) == 7


def test_term_to_the_sidecar_alone_changes_nothing(
    mesh: Mesh, web: Sidecar, start: Callable[..., Run]
) -> None:
    """A service manager that signals all processes of a unit."""
    port = free_port()
    run = start("unit", server(port), port=port)
    mesh.reaches(web, "unit", run)
    os.kill(run.info()["arbiter_pid"], signal.SIGTERM)
    run.process.wait_output("left to `fastmesh run`")
    assert web.get("unit").status == 200
    assert run.process.stop(30) == 7


def test_a_sidecar_that_cannot_start_is_another_status(
    mesh: Mesh, start: Callable[..., Run], tmp_path: Path
) -> None:
    taken = App("taken")
    run = start("busy", [sys.executable, "-c", "print('never')"], "--admin", f"127.0.0.1:{taken.port}")
    assert run.process.wait(40) == 125
    assert "the port is in use" in run.process.stderr and "never" not in run.process.stdout
    taken.close()
    # A control plane that never answers: nothing listens at its addresses.
    bundle = json.loads(mesh.bundle("late").read_text())
    addresses = [name for name, value in bundle.items() if "tcp://" in str(value)]
    dead = {name: f"tcp://127.0.0.1:{free_port()}" for name in addresses}
    assert dead
    nowhere = tmp_path / "nowhere.json"
    nowhere.write_text(json.dumps(bundle | dead))
    nowhere.chmod(0o600)
    late = start("late", ["true"], "--start-timeout", "300ms", "--join", str(nowhere))
    assert late.process.wait(40) == 125
    assert re.search(r"the sidecar is not ready after 0.3 s: \S", late.process.stderr)
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    wrong = Process(["fastmesh", "run", "--join", bad, "--service", "x", "--", "true"], tmp_path, name="bad")
    assert wrong.wait(20) == 2
    assert "not a join bundle" in wrong.stderr
    none = Process(
        ["fastmesh", "run", "--join", bad, "--service", "x", "--", "no-such-program"], tmp_path, name="none"
    )
    assert none.wait(20) == 127


def test_ctrl_c_reaches_the_application_once(mesh: Mesh, start: Callable[..., Run], tmp_path: Path) -> None:
    """At a real terminal: the kernel signals the foreground group."""
    port = free_port()
    made = Run(tmp_path, "tty", "tty", Existing("tty", port))
    command = made.command_for(mesh, server(port), port=port)
    command[:1] = [sys.executable, "-m", "fastmesh"]
    ours, theirs = pty.openpty()
    # A session with this terminal, its leader the runner: Ctrl-C is for all of its group.
    script = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with (tmp_path / "tty.stdout").open("wb") as out, (tmp_path / "tty.stderr").open("wb") as err:
        child = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, command)],
            stdin=theirs, stdout=out, stderr=err, start_new_session=True, env=environment(),
        )  # fmt: skip
    os.close(theirs)
    try:
        wait_for(lambda: port_open(port), 40, "the application")
        os.write(ours, b"\x03")
        assert child.wait(30) == 7
        assert (tmp_path / "tty.stdout").read_text().count("SIGINT") == 1
    finally:
        child.kill()
        child.wait()
        os.close(ours)
