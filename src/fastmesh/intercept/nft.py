"""A plan as a script for nft: one table of its own, made anew in one transaction."""

from __future__ import annotations

from fastmesh.intercept.plan import Plan

TABLE = "fastmesh"
# Before the priorities of others' destination NAT (-100), so that their rules see what is left.
PRIORITY = -101


def one_of(values: tuple[object, ...]) -> str:
    return f"{{ {', '.join(map(str, values))} }}"


def add(plan: Plan) -> str:
    """The script that puts the rules there, whatever was there of ours before."""
    lines = [
        f"table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        "  chain output {",
    ]
    lines.append(f"    type nat hook output priority {PRIORITY}; policy accept;")
    if len(plan.families) == 1:
        lines.append(f"    meta nfproto != ipv{plan.families[0]} return")
    lines.append('    oifname "lo" return')
    if plan.uids:
        lines.append(f"    meta skuid {one_of(plan.uids)} return")
    if plan.gids:
        lines.append(f"    meta skgid {one_of(plan.gids)} return")
    if plan.outbound_exclude:
        lines.append(f"    tcp dport {one_of(plan.outbound_exclude)} return")
    for family, word in ((4, "ip"), (6, "ip6")):
        if excluded := plan.of(plan.networks_exclude, family):
            lines.append(f"    {word} daddr {one_of(excluded)} return")
    if plan.networks is None:
        lines.append(f"    meta l4proto tcp redirect to :{plan.outbound}")
    else:
        for family, word in ((4, "ip"), (6, "ip6")):
            if wanted := plan.of(plan.networks, family):
                lines.append(
                    f"    {word} daddr {one_of(wanted)} meta l4proto tcp redirect to :{plan.outbound}"
                )
    lines.append("  }")
    if plan.inbound_ports != ():
        lines += ["  chain prerouting {", f"    type nat hook prerouting priority {PRIORITY}; policy accept;"]
        if len(plan.families) == 1:
            lines.append(f"    meta nfproto != ipv{plan.families[0]} return")
        lines.append('    iifname "lo" return')
        if plan.inbound_exclude:
            lines.append(f"    tcp dport {one_of(plan.inbound_exclude)} return")
        which = (
            "meta l4proto tcp" if plan.inbound_ports is None else f"tcp dport {one_of(plan.inbound_ports)}"
        )
        lines += [f"    {which} redirect to :{plan.inbound}", "  }"]
    return "\n".join([*lines, "}", ""])


def remove() -> str:
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n"
