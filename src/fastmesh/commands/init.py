"""`fastmesh init`: redirect the connections of this host (or pod) to its sidecar, as istio-init does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from fastmesh.commands import options

if TYPE_CHECKING:
    from fastmesh.intercept.plan import Plan

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# As Istio's validation container: the rules are there (or not), but do not work.
EXIT_CHECK = 126
EXAMPLE = """
Needs root (CAP_NET_ADMIN), and nft or iptables. Run the sidecar as the user that is left out:
fastmesh sidecar --intercept. Running it again replaces the rules.
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 126 the rules do not work.

example:
  fastmesh init --check                       # redirect, and prove that it works
  fastmesh init -u 1337 -d 22,9100 -x 169.254.169.254/32
  fastmesh init --dry-run
  fastmesh init --remove
"""


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "init",
        help="redirect this host's connections to its sidecar",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--remove", action="store_true", help="take the rules away")
    what.add_argument("--dry-run", action="store_true", help="print the rules and change nothing")
    parser.add_argument(
        "--check", action="store_true", help="prove by real connections that applications are intercepted"
    )
    parser.add_argument(
        "--backend", choices=("auto", "nft", "iptables"), default="auto", help="default: nft where it works"
    )
    parser.add_argument("--ipv4-only", action="store_true", help="leave IPv6 alone")
    rules = parser.add_argument_group("rules (the short names are those of istio-iptables)")
    add = rules.add_argument
    add("-p", "--envoy-port", default="15001", metavar="PORT", help="for outbound connections (15001)")
    add(
        "-z",
        "--inbound-capture-port",
        default="15006",
        metavar="PORT",
        help="for inbound connections (15006)",
    )
    add("-u", "--proxy-uid", default="1337", metavar="UIDS", help="users that are left alone (1337)")
    add("-g", "--proxy-gid", default="1337", metavar="GIDS", help="groups that are left alone (1337)")
    add("-b", "--inbound-ports", default="*", metavar="PORTS", help="that are redirected; '' for none (*)")
    add("-d", "--inbound-exclude-ports", default="22", metavar="PORTS", help="that are not (22)")
    add("-i", "--outbound-cidrs", default="*", metavar="CIDRS", help="that are redirected (*)")
    add("-x", "--outbound-exclude-cidrs", default="", metavar="CIDRS", help="that are not")
    add("-q", "--outbound-exclude-ports", default="", metavar="PORTS", help="that are not redirected")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="format (text)")


def plan_of(args: argparse.Namespace) -> Plan:
    """PlanError."""
    from fastmesh.intercept.plan import ANY, OWN_PORTS, Plan, PlanError, ids, networks, ports

    def one(text: str, option: str) -> int:
        found = ports(text, option)
        if len(found) != 1:
            raise PlanError(f"{option}: one port is wanted, not {text!r}")
        return found[0]

    outbound, inbound = (
        one(args.envoy_port, "--envoy-port"),
        one(args.inbound_capture_port, "--inbound-capture-port"),
    )
    if outbound == inbound:
        raise PlanError("--envoy-port and --inbound-capture-port are the same")
    uids, gids = ids(args.proxy_uid, "--proxy-uid"), ids(args.proxy_gid, "--proxy-gid")
    if not uids and not gids:
        raise PlanError("--proxy-uid and --proxy-gid: one of them is needed, or the proxy would call itself")
    excluded = ports(args.inbound_exclude_ports, "--inbound-exclude-ports")
    wanted = args.outbound_cidrs
    return Plan(
        outbound=outbound,
        inbound=inbound,
        uids=uids,
        gids=gids,
        inbound_ports=(None if args.inbound_ports == ANY else ports(args.inbound_ports, "--inbound-ports")),
        inbound_exclude=tuple(dict.fromkeys((*excluded, *OWN_PORTS, outbound, inbound))),
        outbound_exclude=ports(args.outbound_exclude_ports, "--outbound-exclude-ports"),
        networks=None if wanted == ANY else networks(wanted, "--outbound-cidrs"),
        networks_exclude=networks(args.outbound_exclude_cidrs, "--outbound-exclude-cidrs"),
        families=(4,) if args.ipv4_only or not os.path.exists("/proc/net/if_inet6") else (4, 6),
    )


def run(args: argparse.Namespace) -> int:
    from fastmesh.intercept import system
    from fastmesh.intercept.plan import PlanError

    try:
        plan = plan_of(args)
    except PlanError as error:
        options.fail(str(error))
        return 2
    if args.dry_run:
        name = "nft" if args.backend == "auto" else args.backend
        told(args, {"backend": name, "rules": system.script(plan, name)}, system.script(plan, name).rstrip())
        return 0
    if os.geteuid() != 0:
        return options.fail("rules of the packet filter are root's to change (CAP_NET_ADMIN)")
    try:
        name = system.backend(args.backend)
        if args.remove:
            system.remove(name)
        else:
            system.apply(plan, name)
    except system.SystemFailure as error:
        return options.fail(str(error))
    if args.remove:
        told(args, {"backend": name, "done": "removed"}, f"removed ({name})")
        return 0
    versions = " and ".join(f"IPv{family}" for family in plan.families)
    said = f"redirected ({name}, {versions}): outbound to {plan.outbound}, inbound to {plan.inbound}"
    if not args.check:
        told(args, {"backend": name, "done": "redirected", "families": list(plan.families)}, said)
        return 0
    return checked(args, plan, name, said)


def checked(args: argparse.Namespace, plan: Plan, name: str, said: str) -> int:
    from fastmesh.intercept import check

    findings = []
    if plan.networks is None:
        application = check.unused((*plan.uids, *plan.gids))
        for family in plan.families:
            findings.append(check.outbound(family, plan.outbound, application))
            findings += [check.own(family, uid) for uid in plan.uids]
    words = [("ok" if f.good else "FAILED") if f.tried else "not tried" for f in findings]
    lines = [said, *(f"{word}  {f.what} ({f.why})" for word, f in zip(words, findings, strict=True))]
    if not findings:
        lines.append("nothing was tried: only some networks are redirected")
    told(
        args,
        {"backend": name, "done": "redirected", "checks": [vars(f) for f in findings]},
        "\n".join(lines),
    )
    return 0 if all(f.good for f in findings) else EXIT_CHECK


def told(args: argparse.Namespace, made: dict[str, Any], text: str) -> None:
    sys.stdout.write((json.dumps(made) if args.output == "json" else text) + "\n")
