"""Options that edge and sidecar share: what they take and refuse, and what becomes of it in the spec."""

from __future__ import annotations

import argparse

import pytest
from fastmesh._core.proxy.worker import OPTIONS

from fastmesh.commands.options import add_common, address, common_spec, limit, seconds


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    parser.set_defaults(concurrency=1)
    return parser.parse_args(argv)


def test_limits_reach_the_workers():
    args = parsed("--limit", "header_timeout_ms=5000", "--limit", "max_connections=10")
    spec = common_spec(args, "edge", "n")
    assert spec["options"] == {"header_timeout_ms": 5000, "max_connections": 10}


@pytest.mark.parametrize("place", ["", "eu", "eu/1", "eu-west-1/b/rack_3"])
def test_a_locality_is_of_the_command_line_or_the_environment(place: str, monkeypatch: pytest.MonkeyPatch):
    assert parsed("--locality", place).locality == place
    monkeypatch.setenv("FASTMESH_LOCALITY", place)
    assert parsed().locality == place
    assert parsed("--locality", "us").locality == "us"


@pytest.mark.parametrize("place", ["/", "a/", "a/b/c/d", "a/*", "a b"])
def test_a_locality_that_is_none(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for argv in (["--locality", place], []):
        with pytest.raises(SystemExit):
            parsed(*argv)
        assert "--locality" in capsys.readouterr().err
        monkeypatch.setenv("FASTMESH_LOCALITY", place)


WRONG = ["nonsense=1", "max_connections", "max_connections=x", "max_connections=0", "max_memory=99999999999"]


@pytest.mark.parametrize("text", WRONG)
def test_a_limit_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        parsed("--limit", text)
    assert end.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_limits_can_be_listed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        limit("help")
    assert end.value.code == 0
    assert [line.split("=")[0] for line in capsys.readouterr().out.splitlines()] == list(OPTIONS)


@pytest.mark.parametrize(("text", "value"), [("20", 20.0), ("500ms", 0.5), ("2m", 120.0)])
def test_durations(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "x", ":80", "h:0", "h:70000"])
def test_addresses_that_are_none(text: str):
    with pytest.raises(argparse.ArgumentTypeError):
        address(text)
