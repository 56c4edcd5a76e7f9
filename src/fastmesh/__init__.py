"""fastmesh: a service mesh. Imports nothing: every process of every sidecar loads this."""

__version__ = "0.1.0"
