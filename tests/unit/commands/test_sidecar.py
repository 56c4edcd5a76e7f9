"""`fastmesh sidecar`: how an application's protocol is declared."""

from __future__ import annotations

import argparse

import pytest

from fastmesh.commands.sidecar import app_protocol, register

NAMES = [
    ("http", "HTTP"),
    ("HTTP", "HTTP"),
    ("http-web", "HTTP"),
    ("http2", "HTTP2"),
    ("kubernetes.io/h2c", "HTTP2"),
    ("Kubernetes.io/H2C", "HTTP2"),
    ("grpc", "GRPC"),
    ("gRPC-api", "GRPC"),
]


@pytest.mark.parametrize(("text", "protocol"), NAMES)
def test_protocols_of_an_application(text: str, protocol: str) -> None:
    assert app_protocol(text) == protocol


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "grpc-web",
            "GRPC-WEB: not implemented yet (it is not turned into gRPC; HTTP passes it on as it is)",
        ),
        ("tcp", "TCP: not implemented yet (only HTTP is routed)"),
        ("mysql-main", "MYSQL: not implemented yet (only HTTP is routed)"),
        ("https", "an application that speaks TLS itself: not implemented yet"),
        ("h2", "'h2' is none of http, http2, grpc, kubernetes.io/h2c"),
        ("kubernetes.io/ws", "'kubernetes.io/ws' is none of http, http2, grpc, kubernetes.io/h2c"),
    ],
)
def test_what_an_application_cannot_speak(text: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        app_protocol(text)
    assert str(caught.value) == why


def test_without_the_option_nothing_is_said() -> None:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    least = ["sidecar", "--join", "x", "--service", "web", "--app", "127.0.0.1:80"]
    assert parser.parse_args(least).app_protocol == ""
    assert parser.parse_args([*least, "--app-protocol", "grpc"]).app_protocol == "GRPC"
