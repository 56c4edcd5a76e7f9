"""`fastmesh get`: show resources, services, tokens."""

from __future__ import annotations

import argparse
import calendar
import time
from typing import Any

from fastmesh.commands import remote

EXAMPLE = """  fastmesh get virtualservices -A
  fastmesh get virtualservice reviews -o yaml
  fastmesh get services
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = remote.add_command(subparsers, "get", "show resources, services or tokens", EXAMPLE)
    parser.add_argument(
        "kind",
        metavar="KIND",
        help="virtualservice, destinationrule, serviceentry, workloadentry, gateway, peerauthentication, "
        "localratelimit, authorizationpolicy, service, token",
    )
    parser.add_argument("name", metavar="NAME", nargs="?")
    remote.add_namespace(parser, all_=True)
    remote.add_output(parser, "table", "json", "yaml", "name")


def run(args: argparse.Namespace) -> int:
    def work() -> int:
        client = remote.connect(args)
        kind = args.kind.lower()
        namespace = "" if args.all_namespaces else args.namespace
        plain = kind.removesuffix("s")
        if plain in ("service", "svc", "token"):
            what = "tokens" if plain == "token" else "services"
            items = client.items(what, namespace=namespace)
            if args.name:
                items = [i for i in items if args.name in (i.get("name"), i.get("id"), i.get("service"))]
        else:
            what = "resources"
            items = client.items(f"resources/{args.kind}", namespace=namespace, name=args.name or "")
        if args.name and not items:
            return remote.fail(f"{args.kind} {args.name} does not exist in {namespace or 'any namespace'}", 1)
        if args.output in ("json", "yaml"):
            one = args.name and len(items) == 1
            remote.show(
                items[0] if one else {"kind": "List", "apiVersion": "v1", "items": items}, args.output
            )
        elif args.output == "name":
            for item in items:
                print(_name(item))
        else:
            _TABLES[what](items)
        return remote.OK

    return remote.guarded(work)


def _name(item: dict[str, Any]) -> str:
    if "metadata" in item:
        return f"{item['kind'].lower()}/{item['metadata']['name']}"
    return f"service/{item['name']}" if "name" in item else f"token/{item['id']}"


def _resources(items: list[dict[str, Any]]) -> None:
    rows = []
    for item in items:
        meta, spec = item["metadata"], item["spec"]
        hosts = spec.get("hosts") or [spec.get("host") or spec.get("address") or ""]
        if item["kind"] == "Gateway":
            hosts = [host for server in spec.get("servers", ()) for host in server.get("hosts", ())]
        if item["kind"] == "PeerAuthentication":
            hosts = [spec.get("mtls", {}).get("mode", "UNSET")]
        created = calendar.timegm(time.strptime(meta["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ"))
        rows.append(
            (
                meta["namespace"],
                meta["name"],
                ",".join(hosts),
                meta["resourceVersion"],
                remote.age(created),
            )
        )
    mode = bool(items) and items[0]["kind"] == "PeerAuthentication"
    remote.table(("NAMESPACE", "NAME", "MODE" if mode else "HOSTS", "VERSION", "AGE"), rows)


def _services(items: list[dict[str, Any]]) -> None:
    remote.table(
        ("NAMESPACE", "NAME", "PORTS", "ENDPOINTS"),
        [
            (
                item["namespace"],
                item["name"],
                ",".join(map(str, item["ports"])),
                ",".join(f"{e['address']}:{e['port']}" for e in item["endpoints"]) or "<none>",
            )
            for item in items
        ],
    )


def show_tokens(items: list[dict[str, Any]]) -> None:
    """Tokens as a table."""
    remote.table(
        ("ID", "NAMESPACE", "SERVICE", "SERVICE ACCOUNT", "EXPIRES IN", "USED"),
        [
            (
                t["id"],
                t["namespace"],
                t["service"],
                t["service_account"],
                "expired" if t["expired"] else remote.span(t["expires"] - time.time()),
                t["used"],
            )
            for t in items
        ],
    )


_TABLES = {"resources": _resources, "services": _services, "tokens": show_tokens}
