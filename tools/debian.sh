# Sourced by the other scripts: what to do about things that are missing on Debian and its relatives.
# NO_APT=1 forbids installing anything.

fail() {
    echo "postroika: $*" >&2
    exit 1
}

# Prints the prefix for commands that need root ("" or "sudo -n"); fails where there is no way to be root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        echo env
    elif sudo -n true 2>/dev/null; then
        echo "sudo -n env"
    else
        return 1
    fi
}

may_install() { [ -z "${NO_APT:-}" ] && command -v apt-get >/dev/null 2>&1 && as_root >/dev/null; }

# apt_install PACKAGE...: installs Debian packages so that no service starts and no question is asked.
apt_install() {
    root=$(as_root)
    echo "postroika: installing $*" >&2
    # A policy-rc.d that answers 101 keeps maintainer scripts from starting services; one that is there stays.
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $root sh -c "cat >$policy && chmod 755 $policy"
        made_policy=yes
        trap '$root rm -f "$policy"' EXIT INT TERM
    fi
    status=0
    if ! quietly $root DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; then
        # The package lists of a fresh machine or container are empty or old.
        quietly $root apt-get update &&
            quietly $root DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" || status=$?
        [ "$status" = 0 ] || cat "$apt_log" >&2
    fi
    rm -f "$apt_log"
    if [ -n "$made_policy" ]; then
        $root rm -f "$policy"
        trap - EXIT INT TERM
    fi
    return "$status"
}

quietly() {
    apt_log=${apt_log:-$(mktemp)}
    "$@" >"$apt_log" 2>&1 </dev/null
}

# need WHAT PACKAGE...: WHAT is missing; installs the packages where that is allowed, else ends with one line.
need() {
    what=$1
    shift
    [ $# -gt 0 ] || fail "missing: $what; install it, or run make with PYTHON=/usr/bin/python3"
    if may_install && apt_install "$@"; then
        return
    fi
    fail "missing: $what; mend it with: sudo apt-get install $*"
}
