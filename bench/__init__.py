"""bench: fastmesh measured beside its peers, on the same machine and in the same run.

Owns: the harness, the load generators, the peers' settings and the verdicts against the project's bars.
Must not know: anything of fastmesh but its command line and its config files.
Needs only Python's standard library, gcc with the OpenSSL headers, and whichever peers are installed.
"""
