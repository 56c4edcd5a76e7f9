"""`python -m fastmesh_control`: the control plane without the `fastmesh` command around it."""

from __future__ import annotations

import argparse
import sys

from fastmesh_control.main import add_arguments, run

parser = argparse.ArgumentParser("fastmesh control")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
