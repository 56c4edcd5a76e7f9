"""`explain` and a real edge: generated VirtualServices, asked of the file, asked of the proxy, and really
requested; all three must say the same."""

from __future__ import annotations

import http.client
import json
import random
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fastmesh.agent import explain
from fastmesh.cli import main
from fastmesh.commands import explain as command
from helpers import istio
from helpers.app import App
from helpers.certs import Authority
from helpers.mesh import EdgeProxy, request
from helpers.net import free_port

CONFIGS, REQUESTS = 8, 60
HOSTS = ["shop.test", "www.shop.test", "api.test", "nobody.test"]
SERVED = ["shop.test", "*.shop.test", "api.test"]
PATHS = ["/", "/cart", "/cart/1", "/Cart", "/api/v1/x", "/static/a.css"]
USERS = ["ann", "bob", ""]
REDIRECTS = [{"uri": "/there"}, {"authority": "else.test"}, {"redirectCode": 307, "uri": "/t"}]
VERSIONS = ["v1", "v2", "v3"]  # of v3 there is no endpoint


def matching(rng: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if rng.random() < 0.7:
        how = rng.choice(["exact", "prefix", "regex"])
        made["uri"] = {how: rng.choice(PATHS) if how != "regex" else rng.choice(["/c.*", "/api/v[0-9]/.*"])}
        made["ignoreUriCase"] = rng.random() < 0.3
    if rng.random() < 0.4:
        made[rng.choice(["headers", "withoutHeaders"])] = {"x-user": {"exact": rng.choice(USERS[:2])}}
    if rng.random() < 0.2:
        made["method"] = {"exact": rng.choice(["GET", "POST"])}
    if rng.random() < 0.2:
        made["queryParams"] = {"q": {"exact": "1"}}
    if rng.random() < 0.2:
        made["authority"] = {"prefix": "www"}
    return made or {"uri": {"prefix": "/"}}


def rule(rng: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"match": [matching(rng) for _ in range(rng.randint(1, 3))]}
    if rng.random() < 0.2:
        made.pop("match")
    kind = rng.choice(["route", "route", "route", "redirect", "directResponse"])
    if kind == "redirect":
        made["redirect"] = rng.choice(REDIRECTS)
    elif kind == "directResponse":
        body = {"string": f"d{rng.randrange(1000)}"}
        made["directResponse"] = {"status": rng.choice([200, 403]), "body": body}
    else:
        versions = rng.sample(VERSIONS, rng.randint(1, 2))
        weights = [100] if len(versions) == 1 else [60, 40]
        made["route"] = [
            {"destination": {"host": "app.local", "subset": version}, "weight": weight}
            for version, weight in zip(versions, weights, strict=True)
        ]
        made["retries"] = {"attempts": rng.randint(0, 2)}
        if rng.random() < 0.4:
            made["rewrite"] = {"uri": rng.choice(["/", "/new", "/new/"])}
        if rng.random() < 0.3:
            made["headers"] = {"request": {"set": {"x-set": f"s{rng.randrange(1000)}"}, "remove": ["x-user"]}}
    return made


def resource(kind: str, name: str, spec: dict[str, Any]) -> str:
    api = "networking.istio.io/v1"
    return json.dumps({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec})


def text(rng: random.Random, port: int, apps: list[App]) -> str:
    endpoints = [
        {"address": "127.0.0.1", "ports": {"http": app.port}, "labels": {"version": app.name}} for app in apps
    ]
    server = {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    entry = {
        "hosts": ["app.local"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "STATIC",
        "endpoints": endpoints,
    }
    subsets = [{"name": version, "labels": {"version": version}} for version in VERSIONS]
    made = [
        resource("Gateway", "gw", {"selector": {"istio": "ingressgateway"}, "servers": [server]}),
        resource("ServiceEntry", "app", entry),
        resource("DestinationRule", "app", {"host": "app.local", "subsets": subsets}),
    ]
    for i, host in enumerate(rng.sample(SERVED, rng.randint(1, 3))):
        http = [rule(rng) for _ in range(rng.randint(1, 8))]
        made.append(resource("VirtualService", f"vs{i}", {"hosts": [host], "gateways": ["gw"], "http": http}))
    return "\n---\n".join(made)


@pytest.fixture(scope="module")
def apps() -> Iterator[list[App]]:
    made = [App("v1"), App("v2")]
    yield made
    for app in made:
        app.close()


def of_view(edge: EdgeProxy, method: str, url: str, headers: dict[str, str]) -> dict[str, Any]:
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    status, body = edge.view(f"/explain?method={method}&url={quote(url)}&header={quote(lines)}")
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def gist(found: dict[str, Any]) -> Any:
    """What file and proxy must agree on: not the state of endpoints, cells, ids made by chance."""
    dests = found.get("action", {}).get("destinations", [])
    return (
        found["outcome"],
        found["served"],
        found.get("answer"),
        found.get("route"),
        found["passed"],
        [
            (d["weight"], d["cluster"]["name"], d.get("answer"), d.get("sent", {}).get("target"))
            for d in dests
        ],
    )


def test_file_proxy_and_what_happens_agree(tmp_path: Path, apps: list[App]) -> None:
    rng = random.Random(8)
    port = free_port()
    edge = EdgeProxy(tmp_path, text(rng, port, apps))
    outcomes = set()
    edge.start()
    try:
        for number in range(CONFIGS):
            if number:
                edge.reload(text(rng, port, apps))
            config = command.compiled(str(edge.file))
            snapshot = command.packed(config)
            for _ in range(REQUESTS):
                host, path = rng.choice(HOSTS), rng.choice(PATHS) + rng.choice(["", "?q=1"])
                method, headers = rng.choice(["GET", "POST"]), {"x-user": rng.choice(USERS)}
                url = f"http://{host}:{port}{path}"
                question = explain.Question(method, url, [f"{k}: {v}" for k, v in headers.items()])
                found = explain.ask(snapshot, question, config)
                assert gist(found) == gist(of_view(edge, method, url, headers))
                answer = request(port, f"{host}:{port}", path, method=method, **headers)
                outcomes.add(found["outcome"])
                if found["outcome"] != "forward":
                    said = found["answer"]
                    fields = {name.lower(): value for name, value in said["headers"]}
                    assert (answer.status, answer.body.decode()) == (said["status"], said["body"]), found
                    assert answer.headers.get("location") == fields.get("location")
                    continue
                dests = found["action"]["destinations"]
                if answer.status == 503:
                    assert any("answer" in d and d["answer"]["body"].encode() == answer.body for d in dests)
                    outcomes.add("UH")
                    continue
                seen = answer.json
                (dest,) = [d for d in dests if f"|{seen['app']}|" in d["cluster"]["name"]]
                assert dest["sent"]["target"] == seen["path"], (found, seen)
                said = {name.lower(): value for name, value in dest["sent"]["headers"]}
                assert [said.get(n) for n in ("x-set", "x-user", "host")] == [
                    seen["headers"].get(n) for n in ("x-set", "x-user", "host")
                ]
    finally:
        edge.kill()
    assert outcomes == {"forward", "direct", "redirect", "refused", "UH"}


def test_the_command_line_says_the_same_of_the_file_and_of_the_proxy(
    tmp_path: Path, apps: list[App], capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    edge = EdgeProxy(tmp_path, text(random.Random(3), port, apps))

    def said(*args: str) -> tuple[int, dict[str, Any]]:
        status = main(["explain", *args, "-o", "json"])
        return status, json.loads(capsys.readouterr().out)

    edge.start()
    try:
        for path in PATHS:
            question = ("GET", f"http://shop.test:{port}{path}", "-H", "x-user: ann")
            of_file = said("-f", str(edge.file), *question)
            of_proxy = said("--admin", f"127.0.0.1:{edge.admin}", *question)
            assert of_file[0] == of_proxy[0] == (0 if of_file[1]["served"] else 1)
            assert gist(of_file[1]) == gist(of_proxy[1])
    finally:
        edge.kill()


def test_by_tls(tmp_path: Path, apps: list[App]) -> None:
    authority = Authority("servers")
    authority.leaf(dns=["shop.test"]).write(tmp_path, "shop")
    plain, secure = free_port(), free_port()
    rules = """
    - match: [{scheme: {exact: http}}]
      directResponse: {status: 200, body: {string: in the clear}}
    - route: [{destination: {host: app.local}}]
    """
    edge = EdgeProxy(
        tmp_path,
        istio.text(
            istio.gateway(
                istio.http(plain, tls="{httpsRedirect: true}"),
                istio.https(secure, tmp_path, "shop", "shop.test"),
            ),
            istio.routes(rules),
            istio.service("app", apps[0].port),
        ),
    )
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.check_hostname = False
    edge.start()
    try:
        found = of_view(edge, "GET", f"http://shop.test:{plain}/x?y", {})
        answer = request(plain, f"shop.test:{plain}", "/x?y")
        fields = {name.lower(): value for name, value in found["answer"]["headers"]}
        assert (found["outcome"], found["answer"]["status"]) == ("https_redirect", answer.status)
        assert answer.headers["location"] == fields["location"] == "https://shop.test/x?y"

        found = of_view(edge, "GET", f"https://shop.test:{secure}/x?y", {})
        (dest,) = found["action"]["destinations"]
        said = {name.lower(): value for name, value in dest["sent"]["headers"]}
        connection = http.client.HTTPSConnection("127.0.0.1", secure, timeout=20, context=context)
        connection.request("GET", "/x?y", headers={"Host": f"shop.test:{secure}"})
        seen = json.loads(connection.getresponse().read())
        connection.close()
        assert seen["headers"]["x-forwarded-proto"] == said["x-forwarded-proto"] == "https"
        assert (seen["path"], seen["headers"]["host"]) == (dest["sent"]["target"], said["host"])

        # plain text where TLS is spoken: told as it is, and so it is
        found = of_view(edge, "GET", f"http://shop.test:{secure}/", {})
        assert (found["outcome"], found["served"]) == ("plaintext_refused", False)
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            request(secure, "shop.test")
    finally:
        edge.kill()
