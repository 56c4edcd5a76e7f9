"""`fastmesh delete`: remove resources, services without endpoints, or proxies."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastmesh.client import ApiError, Client
from fastmesh.commands import remote

EXAMPLE = """  fastmesh delete virtualservice reviews --wait
  fastmesh delete -f canary.yaml
  fastmesh delete proxy reviews-3f9a1c22d0b4     (it has to join anew)
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = remote.add_command(subparsers, "delete", "remove resources, services, proxies", EXAMPLE)
    parser.add_argument("kind", metavar="KIND", nargs="?")
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument(
        "-f", "--filename", action="append", metavar="FILE", help="remove the objects that FILE names"
    )
    remote.add_namespace(parser)
    parser.add_argument("--ignore-not-found", action="store_true")
    remote.add_wait(parser)
    remote.add_output(parser, "text", "json", "yaml")


def run(args: argparse.Namespace) -> int:
    def work() -> int:
        if bool(args.filename) == bool(args.kind) or bool(args.kind) != bool(args.name):
            raise remote.UsageError("give KIND and NAME, or -f FILE")
        client = remote.connect(args)
        targets = _from_files(args) if args.filename else [(args.kind, args.namespace, args.name)]
        removed: list[dict[str, str]] = []
        version, missing = 0, 0
        for kind, namespace, name in targets:
            try:
                answer = _remove(client, kind, namespace, name)
            except ApiError as error:
                if error.status != 404 or "unknown kind" in str(error):
                    raise
                missing += 1
                if not args.ignore_not_found:
                    remote.fail(str(error), remote.FAILED)
                continue
            for warning in answer.get("warnings", ()):
                print(f"warning: {warning}", file=sys.stderr)
            version = answer.get("version", version)
            removed.append({"kind": kind, "namespace": namespace, "name": name, "action": "deleted"})
            if args.output == "text":
                print(f"{kind.lower()}/{name} deleted")
        if args.output != "text":
            remote.show({"objects": removed, "version": version}, args.output)
        status = remote.FAILED if missing and not args.ignore_not_found else remote.OK
        if args.wait and version:
            return remote.wait(client, version, args.timeout, args.output != "text") or status
        return status

    return remote.guarded(work)


def _remove(client: Client, kind: str, namespace: str, name: str) -> dict[str, Any]:
    plain = kind.lower().removesuffix("s")
    if plain in ("proxy", "proxie"):
        answer = client.delete("proxies", name)
    elif plain == "token":
        answer = client.delete("tokens", name)
    elif plain in ("service", "svc"):
        answer = client.delete("services", namespace, name)
    else:
        answer = client.delete("resources", kind, namespace, name)
    return dict(answer)


def _from_files(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(kind, namespace, name) of the objects in files; they are not checked further."""
    import yaml

    found = []
    for name, text in remote.read_files(args.filename):
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError as error:
            raise remote.UsageError(f"{name}: {error}") from None
        for document in documents:
            if document is None:
                continue
            try:
                meta = document["metadata"]
                found.append((document["kind"], meta.get("namespace", args.namespace), meta["name"]))
            except (TypeError, KeyError, AttributeError):
                raise remote.UsageError(f"{name}: a document without kind and metadata.name") from None
    return found
