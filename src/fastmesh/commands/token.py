"""`fastmesh token`: join bundles for sidecars."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import stat
import sys

from fastmesh.commands import get, remote

EXAMPLE = """  fastmesh token create --service reviews > join.json
  fastmesh token create --service reviews --namespace shop --ttl 1h --output join.json
  fastmesh token list
  fastmesh token delete 3f9a1c22d0b4
"""


def register(subparsers: remote.Subparsers) -> None:
    parser = subparsers.add_parser(
        "token",
        help="make, list and remove join tokens",
        epilog=f"{remote.FINDING}\nexample:\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = remote.add_command(
        actions, "create", "make a join bundle for the sidecars of a service", EXAMPLE
    )
    create.add_argument("--service", required=True, metavar="NAME")
    remote.add_namespace(create)
    create.add_argument(
        "--service-account", default="", metavar="NAME", help="of the SPIFFE ID (default: the service's name)"
    )
    create.add_argument(
        "--ttl",
        type=remote.duration,
        default=24 * 3600.0,
        metavar="TIME",
        help="how long it lets sidecars in (default 24h)",
    )
    create.add_argument(
        "--output", default="-", metavar="FILE", help="written with mode 0600 (default: stdout)"
    )
    shown = remote.add_command(actions, "list", "list tokens (never their secrets)", EXAMPLE)
    remote.add_output(shown, "table", "json", "yaml")
    delete = remote.add_command(actions, "delete", "remove a token: it lets nobody in any more", EXAMPLE)
    delete.add_argument("id", metavar="ID")


def run(args: argparse.Namespace) -> int:
    return remote.guarded(lambda: {"create": _create, "list": _list, "delete": _delete}[args.action](args))


def _create(args: argparse.Namespace) -> int:
    fields = {"namespace": args.namespace, "ttl": args.ttl, "service_account": args.service_account}
    bundle = remote.connect(args).token_create(args.service, **fields)
    text = json.dumps(bundle, indent=2) + "\n"
    if args.output == "-":
        # `> join.json` makes a file that others may read: it holds a secret, so that is taken back.
        if stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
            os.fchmod(sys.stdout.fileno(), 0o600)
        sys.stdout.write(text)
        return remote.OK
    temporary = f"{args.output}.{secrets.token_hex(4)}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        os.rename(temporary, args.output)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        return remote.fail(f"{args.output}: {error.strerror}", remote.FAILED)
    print(f"{args.output}: lets sidecars of {args.namespace}/{args.service} in for {remote.span(args.ttl)}")
    return remote.OK


def _list(args: argparse.Namespace) -> int:
    items = remote.connect(args).items("tokens")
    if args.output == "table":
        get.show_tokens(items)
    else:
        remote.show({"items": items}, args.output)
    return remote.OK


def _delete(args: argparse.Namespace) -> int:
    remote.connect(args).delete("tokens", args.id)
    print(f"token/{args.id} deleted")
    return remote.OK
