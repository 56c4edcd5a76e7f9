"""Rules of the packet filter that redirect an application's connections to its sidecar: what they say
(plan.py), how nftables and iptables are told (nft.py, iptables.py), and whether they work (check.py).

Used by `fastmesh init` alone, as root, before the application starts; no proxy imports it.
"""
