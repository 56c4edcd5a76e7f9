"""The command `fastmesh`: finds the subcommand and loads that one alone. No logic lives here."""

from __future__ import annotations

import argparse
import importlib
import sys

# Subcommand -> its module. `control` is the only way from here to the control plane's package.
COMMANDS = {
    "edge": "fastmesh.commands.edge",
    "sidecar": "fastmesh.commands.sidecar",
    "control": "fastmesh.commands.control",
    "token": "fastmesh.commands.token",
    "ca": "fastmesh.commands.ca",
    "apply": "fastmesh.commands.apply",
    "get": "fastmesh.commands.get",
    "delete": "fastmesh.commands.delete",
    "proxy-status": "fastmesh.commands.proxy_status",
    "proxy-config": "fastmesh.commands.proxy_config",
    "explain": "fastmesh.commands.explain",
    "run": "fastmesh.commands.run",
    "init": "fastmesh.commands.init",
}

DESCRIPTION = "A service mesh that installs with pip: sidecar, edge proxy and control plane."
EXAMPLES = """
examples:
  fastmesh edge --config edge.yaml
  fastmesh control --state DIR
  fastmesh token create --state DIR --service reviews > join.json
  fastmesh sidecar --join join.json --service reviews --version v2 --app 127.0.0.1:9080
  fastmesh run --join join.json --service reviews --app-port 9080 -- python app.py
  fastmesh apply --state DIR -f canary.yaml --wait
  fastmesh explain -f edge.yaml GET https://shop.example.com/cart
  fastmesh edge --help
"""


def wanted(argv: list[str]) -> list[str]:
    """The subcommands whose modules are needed to parse these arguments."""
    named = next((arg for arg in argv if not arg.startswith("-")), "")
    return [named] if named in COMMANDS else list(COMMANDS)


def parser_for(argv: list[str]) -> argparse.ArgumentParser:
    from fastmesh import __version__

    parser = argparse.ArgumentParser(
        "fastmesh",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastmesh {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in wanted(argv):
        importlib.import_module(COMMANDS[name]).register(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status (2: wrong usage)."""
    given = sys.argv[1:] if argv is None else argv
    args = parser_for(given).parse_args(given)
    status: int = importlib.import_module(COMMANDS[args.command]).run(args)
    return status
