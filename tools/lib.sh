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
