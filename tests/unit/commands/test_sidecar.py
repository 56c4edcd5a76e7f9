"""`fastmesh sidecar`: how an application's protocol is declared."""

from __future__ import annotations

import argparse

import pytest

from fastmesh.commands.sidecar import app_protocol, register, tcp_port

NAMES = [
    ("http", "HTTP"),
    ("HTTP", "HTTP"),
    ("http-web", "HTTP"),
    ("http2", "HTTP2"),
    ("kubernetes.io/h2c", "HTTP2"),
    ("Kubernetes.io/H2C", "HTTP2"),
    ("grpc", "GRPC"),
    ("gRPC-api", "GRPC"),
    ("tcp", "TCP"),
    ("tls", "TCP"),
    ("mysql-main", "TCP"),
    ("Redis", "TCP"),
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
        ("udp", "UDP: not implemented yet (only TCP and what is built on it)"),
        ("https", "an application that speaks TLS itself: not implemented yet"),
        ("h2", "'h2' is none of http, http2, grpc, tcp, kubernetes.io/h2c"),
        ("kubernetes.io/ws", "'kubernetes.io/ws' is none of http, http2, grpc, tcp, kubernetes.io/h2c"),
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5432=postgres", ("127.0.0.1", 5432, "postgres", 0)),
        ("127.0.0.2:5432=Postgres.default:5433", ("127.0.0.2", 5432, "postgres.default", 5433)),
        ("[::1]:1=a.example", ("::1", 1, "a.example", 0)),
    ],
)
def test_a_local_port_for_a_tcp_service(text: str, found: tuple[str, int, str, int]) -> None:
    assert tcp_port(text) == found


@pytest.mark.parametrize(
    "text", ["5432", "=a", "0=a", "x=a", "1=", "1=a:0", "1=a:x", "1=a b", "1=*.a", "1=-a"]
)
def test_a_local_port_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        tcp_port(text)
