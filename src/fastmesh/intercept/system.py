"""Rules into the kernel and out of it, by the tools that a machine has."""

from __future__ import annotations

import shutil
import subprocess

from fastmesh.intercept import iptables, nft
from fastmesh.intercept.plan import Plan

BACKENDS = ("nft", "iptables")
TIMEOUT_SECONDS = 30.0


class SystemFailure(Exception):
    """What a tool said, or that there is none."""


def backend(wanted: str) -> str:
    """The tool to use; `auto`: nft where it works, as with nftables all is there at once or nothing is."""
    if wanted != "auto":
        need(wanted)
        return wanted
    tried = []
    for name in BACKENDS:
        if shutil.which(name) is None:
            tried.append(f"{name} is not installed")
            continue
        probe = ["nft", "list", "tables"] if name == "nft" else ["iptables", "-w", "-t", "nat", "-S"]
        done = call(probe)
        if done.returncode == 0:
            return name
        tried.append(f"{name}: {said(done)}")
    raise SystemFailure("; ".join(tried))


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        raise SystemFailure(f"{tool} is not installed")


def call(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[0]


def must(command: list[str], text: str = "") -> None:
    done = call(command, text)
    if done.returncode:
        raise SystemFailure(f"{' '.join(command)}: {said(done)}")


def tables(plan: Plan) -> list[tuple[int, str]]:
    """(IP version, tool)"""
    return [(family, {4: "iptables", 6: "ip6tables"}[family]) for family in plan.families]


def script(plan: Plan, name: str) -> str:
    """What is given to the tools, for people."""
    if name == "nft":
        return nft.add(plan)
    return "".join(
        f"# {tool}-restore --noflush\n{iptables.add(plan, family)}" for family, tool in tables(plan)
    )


def apply(plan: Plan, name: str) -> None:
    """SystemFailure leaves no rule of ours behind."""
    if name == "nft":
        must(["nft", "-f", "-"], nft.add(plan))
        return
    for _, tool in tables(plan):
        need(f"{tool}-restore")
    remove(name)
    try:
        for family, tool in tables(plan):
            must([f"{tool}-restore", "-w", "--noflush"], iptables.add(plan, family))
    except SystemFailure:
        remove(name)
        raise


def remove(name: str) -> None:
    """Also when nothing is there."""
    if name == "nft":
        must(["nft", "-f", "-"], nft.remove())
        return
    for tool in ("iptables", "ip6tables"):
        if shutil.which(tool) is not None:
            for arguments in iptables.undo():
                call([tool, "-w", *arguments])


def present(name: str) -> bool:
    """Are there rules of ours?"""
    if name == "nft":
        return call(["nft", "list", "table", "inet", nft.TABLE]).returncode == 0
    return call(["iptables", "-w", "-t", "nat", "-S", iptables.OUTPUT]).returncode == 0
