"""`fastmesh explain`: of a file, and of a running edge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import Process, free_port
from helpers.procs import ROOT
from integration.edges import Backend, Edge


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    server = Backend()
    yield server
    server.close()


@pytest.fixture
def edge(spawn: Callable[..., Process], tmp_path: Path, backend: Backend) -> Edge:
    return Edge(spawn, tmp_path, backend.port)


def explain(*args: Any) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "fastmesh", "explain", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def answer(*args: Any) -> tuple[int, Any]:
    status, out, err = explain(*args, "-o", "json")
    assert out, err
    return status, json.loads(out)


def test_of_a_file(edge: Edge) -> None:
    where = ("-f", edge.file, "--port", edge.port)
    status, out, err = explain(*where, "GET", "http://test/direct")
    assert (status, err) == (0, "")
    assert "a direct response: 'hello'" in out and "\x1b" not in out
    status, found = answer(*where, "GET", "http://test/else", "-H", "x: y")
    assert status == 0 and found["served"] is True
    assert [r["source"].rpartition(": ")[2] for r in found["passed"]] == [
        "spec.http[0].match[0]",
        "spec.http[1].match[0]",
    ]
    assert found["route"]["source"].startswith("VirtualService ")
    assert found["request"]["headers"] == [["x", "y"]]
    endpoint = found["action"]["destinations"][0]["cluster"]["endpoints"][0]
    assert endpoint["address"] == f"127.0.0.1:{edge.backend}"
    # a name is not resolved: nothing is asked of DNS
    found = answer(*where, "GET", "http://test/none")[1]
    endpoint = found["action"]["destinations"][0]["cluster"]["endpoints"][0]
    assert endpoint["address"].startswith("never.invalid:")


def test_what_the_readme_shows_is_what_is_said(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    _, _, part = readme.partition("## An edge proxy from one file")
    config = re.search(r"^```yaml\n(.*?)^```", part, re.M | re.S)
    sample = re.search(r"^\$ fastmesh explain -f edge.yaml (.*)\n((?:.*\n)*?)```", part, re.M)
    assert config and sample
    (tmp_path / "edge.yaml").write_text(config[1])
    assert explain("-f", tmp_path / "edge.yaml", *sample[1].split()) == (0, sample[2], "")


def test_of_a_running_proxy(edge: Edge) -> None:
    edge.start()
    where = ("--admin", f"127.0.0.1:{edge.admin}")
    for _ in range(2):
        status, found = answer(*where, "GET", f"http://test:{edge.port}/else", "-H", "a: b", "-H", "c: d e&f")
        assert status == 0
        assert found["request"]["headers"] == [["a", "b"], ["c", "d e&f"]]
        cluster = found["action"]["destinations"][0]["cluster"]
        assert [(e["health"], e["used"]) for e in cluster["endpoints"]] == [("healthy", True)]
        assert cluster["in_use"]["active"] == 0
        assert found["route"]["source"].endswith("spec.http[2]")
    # its name does not resolve, so it has no endpoint
    status, out, _ = explain(*where, "GET", "http://test/none", "--port", edge.port)
    assert status == 1 and "503 UH: no healthy upstream" in out
    status, out, _ = explain(*where, "G(T", "http://test/")
    assert status == 1 and "400 DPE: bad request" in out
    assert explain(*where, "GET", "nonsense")[0] == 2
    assert edge.view("/explain")[0] == 400
    assert edge.view("/explain?url=http://test/&port=x")[0] == 400


def test_exit_statuses_and_reasons(edge: Edge, tmp_path: Path) -> None:
    where = ("-f", edge.file)
    for args, word in [
        ((*where, "GET", "test/"), "URL"),
        ((*where, "GET", "http://test/", "-H", "nothing"), "header"),
        ((*where, "GET", "http://test/", "-H", "a: b\r\nc: d"), "line end"),
        ((*where, "GET", "http://test/", "--port", "1"), "no listener fits"),
        ((*where, "GET", "http://test/", "--port", "x"), "port"),
        ((*where, "GET", "http://test/", "--inbound"), "no listener fits"),
        ((*where, "GET", "https://test/", "--port", edge.port), "takes no TLS"),
        (("-f", tmp_path / "none.yaml", "GET", "http://test/"), "no such file"),
        ((*where, "--admin", "1", "GET", "http://test/"), "not allowed"),
        ((*where, "GET"), "URL"),
    ]:
        status, out, err = explain(*args)
        assert (status, out) == (2, ""), (args, out, err)
        assert word in err and "Traceback" not in err
    bad = tmp_path / "bad.yaml"
    bad.write_text(edge.file.read_text().replace("Gateway", "Gatewai"))
    assert explain("-f", bad, "GET", "http://test/")[0] == 2
    status, out, err = explain("--admin", f"127.0.0.1:{free_port()}", "GET", "http://test/")
    assert (status, out) == (3, "") and "no proxy answers" in err
    assert "--admin HOST:PORT" in err and "-f FILE" in err
    # what cannot be asked is told without a proxy
    status, out, err = explain("--admin", f"127.0.0.1:{free_port()}", "GET", "test")
    assert (status, out) == (2, "") and "URL" in err
    # something else answers there
    status, out, err = explain("--admin", f"127.0.0.1:{edge.backend}", "GET", "http://test/")
    assert (status, out) == (3, "") and "no admin endpoint" in err
