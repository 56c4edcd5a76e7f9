"""Real sidecars and a real control plane: join, serve, survive the loss of each part."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from helpers import Process, free_port, wait_for
from integration.controlplane import ControlPlane
from integration.edges import Backend, get

PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
"""
MISSING_FILE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside}
spec:
  host: outside.example
  trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /nonexistent/ca.pem}}
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    server = Backend()
    yield server
    server.close()


@pytest.fixture
def control(spawn: Callable[..., Process], tmp_path: Path) -> ControlPlane:
    return ControlPlane(spawn, tmp_path)


class Sidecar:
    """One real sidecar."""

    def __init__(
        self,
        spawn: Callable[..., Process],
        directory: Path,
        bundle: Path,
        service: str,
        app: int,
        version: str = "",
    ) -> None:
        self.inbound, self.outbound, self.admin = free_port(), free_port(), free_port()
        self.state = directory / f"state-{service}-{self.inbound}"
        self.service = service
        self._spawn = spawn
        self.args: list[Any] = [
            "fastmesh", "sidecar", "--join", bundle, "--service", service, "--app", f"127.0.0.1:{app}",
            "--inbound", f"127.0.0.1:{self.inbound}", "--outbound", f"127.0.0.1:{self.outbound}",
            "--admin", f"127.0.0.1:{self.admin}", "--version", version or "v1",
        ]  # fmt: skip

    def start(self, *options: Any, ready: bool = True) -> Process:
        state = [] if "--state" in options else ["--state", self.state]
        self.process = self._spawn([*self.args, *state, *options], name=f"sidecar-{self.service}")
        if ready:
            wait_for(lambda: get(self.admin, "/ready") == (200, "LIVE\n"), 20, "/ready")
        return self.process

    def ask(self, host: str, path: str = "/x") -> tuple[int, str]:
        """A request of the application, through the outbound port."""
        return get(self.outbound, path, Host=host)

    def json(self, path: str) -> Any:
        return json.loads(get(self.admin, path)[1])

    def knows(self, host: str) -> bool:
        """Routes for this host are in force."""
        tables = self.json("/config_dump")["config"]["tables"]
        return any(host in vhost["domains"] for table in tables for vhost in table["virtual_hosts"])


@pytest.fixture
def pair(
    spawn: Callable[..., Process], tmp_path: Path, control: ControlPlane, backend: Backend
) -> tuple[Sidecar, Sidecar]:
    """(web, reviews), both serving and knowing each other."""
    web = Sidecar(spawn, tmp_path, control.bundle("web"), "web", backend.port)
    reviews = Sidecar(spawn, tmp_path, control.bundle("reviews"), "reviews", backend.port, "v2")
    web.start()
    reviews.start()
    wait_for(lambda: web.ask("reviews") == (200, "/x"), what="the first request")
    return web, reviews


def test_a_request_crosses_two_sidecars_over_mtls(
    pair: tuple[Sidecar, Sidecar], control: ControlPlane
) -> None:
    web, reviews = pair
    for host in ("reviews", "reviews.default", "reviews.default.svc.cluster.local"):
        assert web.ask(host, f"/{host}") == (200, f"/{host}")
    assert web.ask("nobody")[0] == 404
    # The application may use it as a forward proxy too.
    assert get(web.outbound, "http://reviews/by-proxy", Host="reviews") == (200, "/by-proxy")
    # STRICT: who does not speak TLS with a certificate gets nothing.
    with pytest.raises((OSError, HTTPException)):
        get(reviews.inbound, "/x")
    text = get(reviews.admin, "/metrics")[1]
    line = next(line for line in text.splitlines() if line.startswith("istio_requests_total"))
    for label in (
        'reporter="destination"', 'source_principal="spiffe://cluster.local/ns/default/sa/web"',
        'destination_principal="spiffe://cluster.local/ns/default/sa/reviews"', 'destination_version="v2"',
        'connection_security_policy="mutual_tls"', 'destination_service_name="reviews"',
    ):  # fmt: skip
        assert label in line
    certs = reviews.json("/certs")["certificates"]
    assert {c["context"] for c in certs} == {"identity", "identity-server"}
    assert certs[0]["cert_chain"][0]["subject_alt_names"] == [
        "URI:spiffe://cluster.local/ns/default/sa/reviews"
    ]
    assert "PRIVATE KEY" not in get(reviews.admin, "/config_dump")[1]
    wait_for(
        lambda: [p["late"] for p in control.proxies().values()] == [[], []],
        what="every version to be acknowledged",
    )
    status = {p["service"]: p["status"] for p in control.proxies().values()}
    assert status["web"]["generation"] == web.json("/server_info")["generation"]


def test_the_loss_of_the_control_plane_costs_nothing(
    pair: tuple[Sidecar, Sidecar], control: ControlPlane
) -> None:
    web, _ = pair
    control.kill()
    for _ in range(20):
        assert web.ask("reviews") == (200, "/x")
    # A sidecar that is restarted meanwhile serves from what it kept.
    wait_for(lambda: (web.state / "topics").exists(), what="the kept config")
    assert web.process.stop(15) == 0
    web.start()
    assert web.json("/config_dump")["source"] == "disk"
    assert web.ask("reviews") == (200, "/x")
    assert web.json("/server_info")["control_plane"]["connected"] is False
    control.start()
    wait_for(lambda: web.json("/server_info")["control_plane"]["connected"], 20, "the control plane's return")
    assert web.ask("reviews") == (200, "/x")


def test_a_killed_agent_costs_no_request(pair: tuple[Sidecar, Sidecar], control: ControlPlane) -> None:
    web, _ = pair
    bad: list[tuple[int, str]] = []
    count = 0
    stop = threading.Event()

    def traffic() -> None:
        nonlocal count
        while not stop.is_set():
            answer = web.ask("reviews")
            count += 1
            if answer != (200, "/x"):
                bad.append(answer)

    thread = threading.Thread(target=traffic)
    thread.start()
    for sidecar in pair:
        agent = sidecar.json("/server_info")["agent_pid"]
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda s=sidecar, a=agent: s.json("/server_info")["agent_pid"] != a, what="the next agent")  # type: ignore[misc]
        wait_for(lambda s=sidecar: s.json("/server_info")["control_plane"]["connected"], what="its session")  # type: ignore[misc]
    seen = count
    wait_for(lambda: count > seen + 20, what="traffic after it")
    stop.set()
    thread.join()
    assert bad == []


def test_term_leaves_the_endpoint_list_at_once(pair: tuple[Sidecar, Sidecar], control: ControlPlane) -> None:
    _, reviews = pair
    assert control.endpoints("reviews") == {reviews.inbound}
    reviews.process.signal(signal.SIGTERM)
    assert reviews.process.wait(15) == 0
    assert control.endpoints("reviews") == set()


def test_permissive_lets_plaintext_in(pair: tuple[Sidecar, Sidecar], control: ControlPlane) -> None:
    web, reviews = pair
    control.apply(PERMISSIVE)

    def plaintext() -> bool:
        try:
            return get(reviews.inbound, "/plain") == (200, "/plain")
        except (OSError, HTTPException):
            return False

    wait_for(plaintext, what="plaintext to be accepted")
    assert web.ask("reviews") == (200, "/x")


def test_a_service_that_cannot_be_served_leaves_the_others_alone(
    pair: tuple[Sidecar, Sidecar], control: ControlPlane
) -> None:
    web, _ = pair
    control.apply(MISSING_FILE)
    web.process.wait_output(
        "svc/outside.example cannot be served: /nonexistent/ca.pem: No such file or directory"
    )
    assert "svc/outside.example" in web.json("/server_info")["control_plane"]["refused"]
    refused = {p["service"]: p["refused"] for p in control.proxies().values()}
    assert "/nonexistent/ca.pem" in refused["web"]["svc/outside.example"]["reason"]
    assert web.ask("reviews") == (200, "/x")
    assert web.ask("outside.example")[0] == 404


def test_a_corrupt_state_file_is_told_and_costs_nothing(
    pair: tuple[Sidecar, Sidecar], control: ControlPlane
) -> None:
    web, _ = pair
    wait_for(lambda: (web.state / "topics").exists(), what="the kept config")
    assert web.process.stop(15) == 0
    (web.state / "topics").write_bytes(b"\x81\xa1x" * 100)
    (web.state / "identity").write_bytes(b"\0" * 100)
    web.start()
    assert "topics cannot be used" in web.process.stderr
    assert "identity" in web.process.stderr and "cannot be used" in web.process.stderr
    wait_for(lambda: web.ask("reviews") == (200, "/x"), what="a request")


def test_a_state_directory_that_cannot_be_written_costs_only_the_restart(
    spawn: Callable[..., Process], tmp_path: Path, control: ControlPlane, backend: Backend
) -> None:
    web = Sidecar(spawn, tmp_path, control.bundle("web"), "web", backend.port)
    (tmp_path / "file").write_text("")
    process = web.start("--state", tmp_path / "file" / "state")
    assert "nothing will be kept" in process.stderr
    wait_for(lambda: web.ask("web") == (200, "/x"), what="a request")
    process.wait_output("cannot be (kept|written)")


def test_without_a_state_directory_nothing_is_left_behind(
    spawn: Callable[..., Process], tmp_path: Path, control: ControlPlane, backend: Backend
) -> None:
    web = Sidecar(spawn, tmp_path, control.bundle("web"), "web", backend.port)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = spawn(web.args, name="sidecar", env={"TMPDIR": str(temporary)})
    wait_for(lambda: get(web.admin, "/ready")[0] == 200, 20, "/ready")
    assert len(list(temporary.iterdir())) == 1
    assert process.stop(15) == 0
    assert list(temporary.iterdir()) == []


def test_a_wrong_token_ends_with_5_and_says_so(
    spawn: Callable[..., Process], tmp_path: Path, control: ControlPlane, backend: Backend
) -> None:
    path = control.bundle("web")
    bundle = json.loads(path.read_text())
    bundle["token"] = bundle["token"][:-4] + "AAAA"
    path.write_text(json.dumps(bundle))
    web = Sidecar(spawn, tmp_path, path, "web", backend.port)
    process = web.start(ready=False)
    assert process.wait(20) == 5
    assert "join refused" in process.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "no JSON"), ("[]", "no JSON object"), ('{"service": "web"}', "missing"), (None, "No such file")],
)
def test_a_bad_bundle_ends_with_2(
    spawn: Callable[..., Process], tmp_path: Path, backend: Backend, text: str | None, said: str
) -> None:
    path = tmp_path / "join.json"
    if text is not None:
        path.write_text(text)
    process = Sidecar(spawn, tmp_path, path, "web", backend.port).start(ready=False)
    assert process.wait(20) == 2
    assert said in process.stderr and process.stderr.count("\n") == 1
