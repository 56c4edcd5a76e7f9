"""A plan as input of iptables-restore and ip6tables-restore: chains of its own, jumped to from OUTPUT and
PREROUTING of the nat table."""

from __future__ import annotations

from fastmesh.intercept.plan import Plan

OUTPUT, PREROUTING = "FASTMESH_OUTPUT", "FASTMESH_INBOUND"


def add(plan: Plan, family: int) -> str:
    """For `--noflush`, on a table without our chains' jumps: the chains are emptied first."""
    out: list[str] = [f"-A {OUTPUT} -o lo -j RETURN"]
    out += [f"-A {OUTPUT} -m owner --uid-owner {uid} -j RETURN" for uid in plan.uids]
    out += [f"-A {OUTPUT} -m owner --gid-owner {gid} -j RETURN" for gid in plan.gids]
    out += [f"-A {OUTPUT} -p tcp --dport {port} -j RETURN" for port in plan.outbound_exclude]
    out += [f"-A {OUTPUT} -d {net} -j RETURN" for net in plan.of(plan.networks_exclude, family)]
    to = f"-p tcp -j REDIRECT --to-ports {plan.outbound}"
    if plan.networks is None:
        out.append(f"-A {OUTPUT} {to}")
    else:
        out += [f"-A {OUTPUT} -d {net} {to}" for net in plan.of(plan.networks, family)]
    into: list[str] = []
    if plan.inbound_ports != ():
        to = f"-j REDIRECT --to-ports {plan.inbound}"
        into.append(f"-A {PREROUTING} -i lo -j RETURN")
        into += [f"-A {PREROUTING} -p tcp --dport {port} -j RETURN" for port in plan.inbound_exclude]
        if plan.inbound_ports is None:
            into.append(f"-A {PREROUTING} -p tcp {to}")
        else:
            into += [f"-A {PREROUTING} -p tcp --dport {port} {to}" for port in plan.inbound_ports]
    lines = ["*nat", f":{OUTPUT} - [0:0]", f":{PREROUTING} - [0:0]", *out, *into]
    lines += [f"-I OUTPUT 1 -p tcp -j {OUTPUT}", f"-I PREROUTING 1 -p tcp -j {PREROUTING}", "COMMIT", ""]
    return "\n".join(lines)


def undo() -> list[list[str]]:
    """Arguments for iptables and ip6tables; each may fail: what is to be removed may not be there."""
    return [
        ["-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", OUTPUT],
        ["-t", "nat", "-D", "PREROUTING", "-p", "tcp", "-j", PREROUTING],
        *(["-t", "nat", action, chain] for chain in (OUTPUT, PREROUTING) for action in ("-F", "-X")),
    ]
