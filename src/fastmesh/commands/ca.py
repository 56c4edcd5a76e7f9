"""`fastmesh ca`: which certificate signs, going over to another one, identities that are denied."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from fastmesh.commands import remote

EXAMPLE = """  fastmesh ca status
  fastmesh ca rotate --wait                      # to a new root of the control plane's own
  fastmesh ca rotate --key ca-key.pem --cert ca-cert.pem --root root-cert.pem
  fastmesh ca proceed --force                    # leave behind who is away
  fastmesh ca deny spiffe://cluster.local/ns/default/sa/reviews --reason 'key stolen'
"""
POLL_SECONDS = 0.5
PHASES = {
    "idle": "no rotation is under way",
    "distribute": "the new root is given to all; the old one signs",
    "reissue": "the new one signs; all certificates are renewed, the old root is still trusted",
}


def register(subparsers: remote.Subparsers) -> None:
    parser = subparsers.add_parser(
        "ca",
        help="the mesh's certificate authority: status, rotation, denied identities",
        epilog=f"{remote.FINDING}\nexample:\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return remote.add_command(actions, name, text, EXAMPLE)

    remote.add_output(
        add("status", "which certificate signs, and what a rotation waits for"), "table", "json"
    )
    rotate = add("rotate", "go over to another signing certificate without losing a request")
    given = rotate.add_argument_group("a certificate from elsewhere (default: a new root is made)")
    given.add_argument("--key", metavar="FILE", help="its private key, PEM")
    given.add_argument("--cert", metavar="FILE", help="itself, then those between it and the root, PEM")
    given.add_argument("--root", metavar="FILE", help="the root, PEM (default: in --cert)")
    rotate.add_argument("--wait", action="store_true", help="until nobody trusts the old root any more")
    rotate.add_argument(
        "--timeout", type=remote.duration, default=300.0, metavar="TIME", help="for --wait (default 5m)"
    )
    proceed = add("proceed", "take the next step of a rotation now")
    proceed.add_argument("--force", action="store_true", help="even if that cuts workloads off")
    add("cancel", "give up a rotation whose new certificate does not sign yet")
    deny = add("deny", "refuse an identity everywhere: no certificate, no connection")
    deny.add_argument("identity", metavar="SPIFFE_ID")
    deny.add_argument("--reason", default="", metavar="TEXT", help="told in logs and in the list")
    allow = add("allow", "take an identity off the list of those denied")
    allow.add_argument("identity", metavar="SPIFFE_ID")
    remote.add_output(add("denied", "list the identities that are denied"), "table", "json")


def run(args: argparse.Namespace) -> int:
    actions = {
        "status": _status,
        "rotate": _rotate,
        "proceed": _proceed,
        "cancel": _cancel,
        "deny": _deny,
        "allow": _allow,
        "denied": _denied,
    }
    return remote.guarded(lambda: actions[args.action](args))


def _status(args: argparse.Namespace) -> int:
    status = remote.connect(args).get("ca")
    if args.output == "json":
        remote.show(status, "json")
    else:
        _show(status)
    return remote.OK


def _show(status: dict[str, Any]) -> None:
    now = time.time()
    rows = [("signs", status["signer"]), ("next", status["next"])]
    named = [
        (what, s["id"], s["subject"], s["root"], remote.span(s["expires"] - now)) for what, s in rows if s
    ]
    remote.table(("", "ID", "SUBJECT", "ROOT", "EXPIRES IN"), named)
    print(f"\n{status['phase']}: {PHASES[status['phase']]}")
    print(f"{len(status['roots'])} trusted root(s): {', '.join(r['subject'] for r in status['roots'])}")
    if status["waiting"]:
        print(f"\nthe next step would cut off {status['waiting']} workload(s), and waits for them:")
        remote.table(
            ("WORKLOAD", "CERTIFICATE EXPIRES IN", "WHY"),
            [
                (w["name"], remote.span(w["certificate_expires"] - now), w["why"])
                for w in status["waiting_for"]
            ],
        )
    for warning in status["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise remote.UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise remote.UsageError(f"{path}: not a PEM file") from None


def _rotate(args: argparse.Namespace) -> int:
    body: dict[str, Any] = {}
    if args.key or args.cert or args.root:
        if not args.key or not args.cert:
            raise remote.UsageError("--key and --cert go together")
        body = {"key": _read(args.key), "certificate": _read(args.cert)}
        if args.root:
            body["root"] = _read(args.root)
    client = remote.connect(args)
    status = client.call("POST", "/v1/ca/rotate", body)
    print(f"rotation from {status['signer']['id']} to {status['next']['id']} has begun")
    if not args.wait:
        print("`fastmesh ca status` tells how far it is")
        return remote.OK
    deadline = time.monotonic() + args.timeout
    told = ""
    while True:
        line = f"{status['phase']}: {PHASES[status['phase']]}"
        if status["waiting"]:
            line += f" ({status['waiting']} to go)"
        if line != told and status["phase"] != "idle":
            print(line, flush=True)
            told = line
        if status["phase"] == "idle":
            print(f"done: only {', '.join(r['subject'] for r in status['roots'])} is trusted")
            return remote.OK
        if time.monotonic() > deadline:
            _show(status)
            return remote.fail("the rotation goes on; it was not waited for any longer", remote.LATE)
        time.sleep(POLL_SECONDS)
        status = client.get("ca")


def _proceed(args: argparse.Namespace) -> int:
    _show(remote.connect(args).call("POST", "/v1/ca/proceed", {"force": args.force}))
    return remote.OK


def _cancel(args: argparse.Namespace) -> int:
    remote.connect(args).call("POST", "/v1/ca/cancel", {})
    print("cancelled: the certificate that was to follow is forgotten")
    return remote.OK


def _deny(args: argparse.Namespace) -> int:
    client = remote.connect(args)
    client.call("POST", "/v1/denied", {"identity": args.identity, "reason": args.reason})
    print(f"{args.identity} is denied")
    return remote.OK


def _allow(args: argparse.Namespace) -> int:
    remote.connect(args).call("DELETE", "/v1/denied", query={"identity": args.identity})
    print(f"{args.identity} is allowed again")
    return remote.OK


def _denied(args: argparse.Namespace) -> int:
    items = remote.connect(args).items("denied")
    if args.output == "json":
        print(json.dumps({"items": items}, indent=2))
    else:
        rows = [(i["identity"], remote.age(i["since"]), i["reason"]) for i in items]
        remote.table(("IDENTITY", "SINCE", "REASON"), rows)
    return remote.OK
