"""Config through the control plane: what cannot be used is refused whole, what can is served when `apply
--wait` returns, and the shares of a split are what the weights say."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Load, Mesh, Sidecar, running

SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""


def split(v1: int, word: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - headers: {{response: {{set: {{x-word: "{word or v1}"}}}}}}
    route:
    - {{destination: {{host: reviews, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: reviews, subset: v2}}, weight: {100 - v1}}}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("config")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> list[Sidecar]:
    made = [mesh.sidecar("reviews", version=v, app=App(v)) for v in ("v1", "v2")]
    mesh.apply(SUBSETS + "---" + split(50))
    return made


@pytest.fixture(scope="module")
def web(mesh: Mesh, reviews: list[Sidecar]) -> Sidecar:
    web = mesh.sidecar("web", "--concurrency", "2", app=App("web"))
    mesh.reaches(web, "reviews", *reviews)
    return web


BAD = [
    ("weight: 50", "wieght: 50", "wieght"),
    ("http:", "htttp:", "htttp"),
    ("weight: 50}", "weight: 50, mirror: x}", "mirror"),
    ("weight: 50}", "weight: fifty}", "weight"),
    ("- headers:", "- redirect: {uri: /}\n    headers:", "redirect"),  # contradicts route
    ("subset: v2", "subset: v9", "v9"),
    ("hosts: [reviews]", "hosts: [re views]", "hosts"),
    ("kind: VirtualService", "kind: VirtualServise", "VirtualServise"),
    ("http:", "http: [", ""),
]


@pytest.mark.parametrize(("good", "bad", "said"), BAD)
def test_bad_config_is_refused_with_file_line_and_path(
    mesh: Mesh, web: Sidecar, good: str, bad: str, said: str
) -> None:
    mesh.apply(split(50))
    before = web.info()["control_plane"]["versions"]
    file = mesh.file(split(50, "never").replace(good, bad))
    assert bad in file.read_text()
    done = mesh.cli("apply", "-f", file, "--wait", status=1)
    assert re.search(rf"{re.escape(str(file))}:\d+", done.stderr), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
    answer = web.get("reviews")
    assert (answer.status, answer.headers["x-word"]) == (200, "50")
    assert web.info()["control_plane"]["versions"] == before


def test_one_bad_document_of_several_refuses_them_all_and_the_api_says_422(mesh: Mesh, web: Sidecar) -> None:
    from fastmesh.client import ApiError

    mesh.apply(split(50))
    text = split(50, "never") + "---" + SUBSETS.replace("subsets", "subsetz")
    with pytest.raises(ApiError) as caught:
        mesh.client.apply([("two.yaml", text)])
    assert caught.value.status == 422
    assert [p["path"] for p in caught.value.problems] and "subsetz" in str(caught.value.problems)
    assert web.get("reviews").headers["x-word"] == "50"


def test_apply_wait_returns_when_every_worker_serves_it(mesh: Mesh, web: Sidecar) -> None:
    for number in range(20):
        mesh.apply(split(50, f"w{number}"))
        # A connection each: both workers are asked (the kernel spreads them), none may answer from before.
        words = {web.get("reviews").headers["x-word"] for _ in range(8)}
        assert words == {f"w{number}"}


def test_apply_wait_gives_up_with_4_when_a_proxy_stands_still(
    mesh: Mesh, web: Sidecar, reviews: list[Sidecar]
) -> None:
    stopped = web.agent_pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        done = mesh.cli("apply", "-f", mesh.file(split(50, "late")), "--wait", "--timeout", "1s", status=4)
        assert "web-" in done.stderr and "late" in done.stderr
        assert web.get("reviews").headers["x-word"] != "late", "the workers serve on what they had"
    finally:
        os.kill(stopped, signal.SIGCONT)
    mesh.synced()
    assert web.get("reviews").headers["x-word"] == "late"


def test_apply_wait_counts_a_worker_that_stands_still(mesh: Mesh, web: Sidecar) -> None:
    """The agent has published: as long as one of two workers has not taken it up it is not served."""
    stopped = min(web.worker_pids())
    os.kill(stopped, signal.SIGSTOP)
    try:
        mesh.cli("apply", "-f", mesh.file(split(50, "half")), "--wait", "--timeout", "1s", status=4)
    finally:
        os.kill(stopped, signal.SIGCONT)
    mesh.synced()
    assert {web.get("reviews").headers["x-word"] for _ in range(8)} == {"half"}


@pytest.mark.parametrize("share", [95, 0, 100])
def test_shares_are_those_of_the_weights(
    mesh: Mesh, web: Sidecar, reviews: list[Sidecar], share: int
) -> None:
    mesh.apply(split(share))
    requests = 2000 if share == 95 else 200
    counted: Counter[str] = Counter()
    with Load(web.outbound, "reviews", clients=4, pause=0) as load:
        load.more(requests, 60)
    counted = load.good
    assert load.bad == []
    total = counted.total()
    if share == 95:
        # 5 standard deviations of a binomial distribution: a right split fails once in two million runs.
        bound = 5 * (total * 0.95 * 0.05) ** 0.5
        assert abs(counted["v1"] - 0.95 * total) <= bound, counted
    else:
        assert counted == {("v1" if share else "v2"): total}


def test_one_trace_and_one_request_id_on_both_hops(mesh: Mesh, web: Sidecar, reviews: list[Sidecar]) -> None:
    mesh.apply(split(100))
    seen = web.get("reviews", "/traced").json["headers"]
    near = web.logged(lambda e: e["path"] == "/traced")
    far = reviews[0].logged(lambda e: e["path"] == "/traced")
    version, trace, _, flags = seen["traceparent"].split("-")
    assert version == "00" and len(trace) == 32 and flags in ("00", "01")
    assert near["trace_id"] == far["trace_id"] == trace
    assert near["request_id"] == far["request_id"] == seen["x-request-id"]
    assert seen["x-forwarded-proto"] == "http"
    assert far["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/web"
    # What the caller has begun is continued.
    given = "0af7651916cd43dd8448eb211c80319c"
    seen = web.get("reviews", "/given", traceparent=f"00-{given}-b7ad6b7169203331-01", tracestate="a=1").json[
        "headers"
    ]
    assert seen["traceparent"].split("-")[1] == given and seen["tracestate"] == "a=1"


def test_many_at_once_see_the_old_or_the_new_and_nothing_else(mesh: Mesh, web: Sidecar) -> None:
    """Ten changes under load: no request fails, none is answered by a mixture."""
    mesh.apply(split(100, "start"))
    with Load(web.outbound, "reviews", clients=4) as load, concurrent.futures.ThreadPoolExecutor(1) as pool:
        changes = pool.submit(lambda: [mesh.apply(split(100 * (n % 2), f"n{n}")) for n in range(10)])
        changes.result(60)
        load.more(20)
    assert load.bad == []
    assert set(load.good) == {"v1", "v2"}


def test_delete_takes_effect_too(mesh: Mesh, web: Sidecar) -> None:
    mesh.apply(split(100, "gone-soon"))
    mesh.cli("delete", "virtualservice", "reviews", "--wait")
    answers = [web.get("reviews") for _ in range(40)]
    assert all(a.status == 200 and "x-word" not in a.headers for a in answers)
    assert {a.headers["x-app"] for a in answers} == {"v1", "v2"}


def test_a_file_that_no_worker_can_use_holds_nothing_up(mesh: Mesh, web: Sidecar, tmp_path: Path) -> None:
    """A CA file on the sidecar's machine that is damaged: its service keeps what served before, or is left
    out; all others, and what comes after, are taken up."""
    bad = tmp_path / "ca.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    outside = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: out}}
spec:
  hosts: [out.example]
  ports: [{{number: 443, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: out}}
spec:
  host: out.example
  trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {bad}, sni: out.example}}}}
"""
    done = mesh.cli("apply", "-f", mesh.file(outside))
    assert done.returncode == 0
    wait_for(lambda: any(p["refused"] for p in mesh.proxies().values()), what="the refusal")
    mesh.cli("apply", "-f", mesh.file(split(50, "after")))
    wait_for(lambda: web.get("reviews").headers.get("x-word") == "after", what="the config that came after")
    mesh.delete("DestinationRule", "out")
    mesh.delete("ServiceEntry", "out")
    mesh.synced()


@pytest.mark.parametrize(
    ("what", "key"),
    [("config", "config"), ("clusters", "clusters"), ("certs", "certificates"), ("stats", "stats"),
     ("server_info", "workers")],
)  # fmt: skip
def test_proxy_config_shows_what_a_sidecar_serves(mesh: Mesh, web: Sidecar, what: str, key: str) -> None:
    name = next(name for name in mesh.proxies() if name.startswith("web-"))
    text = mesh.cli("proxy-config", name, what).stdout
    assert json.loads(text)[key]
    assert "PRIVATE KEY" not in text and "PRIVATE KEY" not in web.view("/config_dump")[1]


def test_proxy_config_of_what_there_is_not_fails(mesh: Mesh, web: Sidecar) -> None:
    name = next(name for name in mesh.proxies() if name.startswith("web-"))
    assert "nonsense" in mesh.cli("proxy-config", name, "nonsense", status=1).stderr
    assert "not connected" in mesh.cli("proxy-config", "nobody", status=1).stderr


def test_routes_are_chosen_by_the_source_that_asks(mesh: Mesh, reviews: list[Sidecar], web: Sidecar) -> None:
    """sourceLabels: clients of one version alone get the rule; a delegate holds the rest."""
    rule = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{sourceLabels: {app: probe, version: canary}}]
    directResponse: {status: 418}
  - match: [{sourceNamespace: elsewhere}]
    directResponse: {status: 419}
  - delegate: {name: rest}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rest}
spec:
  http: [{route: [{destination: {host: reviews, subset: v1}}]}]
"""
    mesh.apply(SUBSETS + "---" + rule)
    canary = mesh.sidecar("probe", "--version", "canary", app=App("probe"))
    wait_for(lambda: canary.get("reviews").status == 418, 20)
    assert web.get("reviews").status == 200
    mesh.apply(SUBSETS + "---" + split(50))
