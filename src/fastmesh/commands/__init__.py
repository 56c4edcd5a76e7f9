"""The subcommands of `fastmesh`: one module each, with `register(subparsers)` and `run(args) -> int`, loaded
when it is used."""
