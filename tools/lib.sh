# Shared by the scripts in tools/: messages, and system packages.

say() { printf 'fastmesh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# need_packages PACKAGE...: install them with apt when that is possible, else say in one line what to install.
need_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing system packages: $*"
        export DEBIAN_FRONTEND=noninteractive
        local log
        log=$(mktemp)
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get could not install: $*"; }
        rm -f "$log"
    else
        die "missing system packages; run as root: apt-get install -y $*"
    fi
}

# want_tools WHAT COMMAND:PACKAGE...: install the packages whose command is missing; where that is not possible, WHAT goes on without.
want_tools() {
    local what=$1 tool missing=()
    shift
    for tool in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    (
        # Debian starts a service that it installs; a machine that only tests or measures wants no nginx on port 80.
        policy=/usr/sbin/policy-rc.d
        if [ "$(id -u)" = 0 ] && [ ! -e $policy ]; then
            printf '#!/bin/sh\nexit 101\n' >$policy
            chmod +x $policy
            trap 'rm -f $policy' EXIT
        fi
        need_packages "${missing[@]}"
    ) || say "$what goes on without: ${missing[*]}"
}
