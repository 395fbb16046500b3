#!/bin/bash
# Installs what is missing on this machine. Says nothing when nothing is missing.
#
#   scripts/setup.sh run     what a node needs to be built and to run (Debian 12 or newer, as root)
#   scripts/setup.sh test    that, and what its tests drive: the Heroku CLI, heroku3, heroku-client, Schemathesis, PostgreSQL, wrk,
#                            Pebble, libfaketime
#   scripts/setup.sh bench   that, and the proxies that the router is measured against
#
# Tools that Debian does not have in a recent enough form go to target/tools, nowhere else.
set -euo pipefail
cd "$(dirname "$0")/.."

HEROKU_CLI_VERSION=11.10.0
HEROKU3_VERSION=5.2.1
HEROKU_CLIENT_VERSION=3.1.4
HEROKU_BUILDS_VERSION=0.0.29
SCHEMATHESIS_VERSION=4.32.5
# HEROKU_CLI_VERSION asks for 20 ("engines" in its package.json); under 24 a line of it takes two thirds of the processor time.
NODE_MINIMUM_MAJOR=24
tools=$PWD/target/tools

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

apt_install() {
    local missing=() package
    for package in "$@"; do is_installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "these packages are missing and there is no apt-get to install them: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "these packages are missing; run as root, or: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    local log=target/setup-apt.log
    mkdir -p target
    export DEBIAN_FRONTEND=noninteractive
    # The lists of a fresh image are empty or old: one update, and only when the first try fails.
    if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
        apt-get update -qq >>"$log" 2>&1 || { tail -5 "$log" >&2; die "apt-get update failed (whole text: $log)"; }
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$log" 2>&1 ||
            { tail -5 "$log" >&2; die "apt-get install failed (whole text: $log)"; }
    fi
}

node_major() { node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p'; }

npm_install() {
    mkdir -p "$tools"
    npm install --prefix "$tools" --no-audit --no-fund --loglevel=error "$@" >"$tools/npm.log" 2>&1 ||
        { tail -5 "$tools/npm.log" >&2; die "npm install $* failed (whole text: $tools/npm.log)"; }
}

# A package with a folder of its own.
install_apart() {
    local folder=$tools/$1
    [ ! -e "$folder/$2" ] || return 0
    say "installing $1 $2 into target/tools"
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --loglevel=error "$1@$2" >"$tools/npm.log" 2>&1 ||
        { tail -5 "$tools/npm.log" >&2; die "npm install $1 failed (whole text: $tools/npm.log)"; }
    touch "$folder/$2"
}

install_for_run() {
    apt_install git iproute2 nftables libseccomp-dev pkg-config gcc libc6-dev make python3 python3-venv python3-pip \
        e2fsprogs ca-certificates curl util-linux procps mount openssh-sftp-server
}

install_for_test() {
    # curl and openssl are the TLS clients of the router's tests.
    apt_install openssl openssh-client
    export PATH=$tools/node_modules/.bin:$PATH
    command -v node >/dev/null || apt_install nodejs
    command -v npm >/dev/null || apt_install npm
    if [ "$(node_major)" -lt "$NODE_MINIMUM_MAJOR" ]; then
        say "installing Node.js $NODE_MINIMUM_MAJOR into target/tools: this machine has $(node --version)"
        npm_install "node@$NODE_MINIMUM_MAJOR"
    fi
    local have
    have=$(sed -n 's/^ *"version": "\(.*\)",*$/\1/p' "$tools/node_modules/heroku/package.json" 2>/dev/null | head -1 || true)
    if [ "$have" != "$HEROKU_CLI_VERSION" ]; then
        say "installing the Heroku CLI $HEROKU_CLI_VERSION into target/tools"
        npm_install "heroku@$HEROKU_CLI_VERSION"
    fi
    if [ ! -e "$tools/python/heroku3-$HEROKU3_VERSION" ]; then
        say "installing heroku3 $HEROKU3_VERSION into target/tools"
        # heroku3 needs six without saying so.
        { python3 -m venv "$tools/python" && "$tools/python/bin/pip" install -q "heroku3==$HEROKU3_VERSION" six; } \
            >"$tools/pip.log" 2>&1 || { tail -5 "$tools/pip.log" >&2; die "pip install heroku3 failed (whole text: $tools/pip.log)"; }
        touch "$tools/python/heroku3-$HEROKU3_VERSION"
    fi
    # In folders of their own, so that neither changes what the CLI and heroku3 run with.
    if [ ! -e "$tools/schemathesis/$SCHEMATHESIS_VERSION" ]; then
        say "installing Schemathesis $SCHEMATHESIS_VERSION into target/tools"
        { python3 -m venv "$tools/schemathesis" && "$tools/schemathesis/bin/pip" install -q "schemathesis==$SCHEMATHESIS_VERSION"; } \
            >"$tools/pip.log" 2>&1 || { tail -5 "$tools/pip.log" >&2; die "pip install schemathesis failed (whole text: $tools/pip.log)"; }
        touch "$tools/schemathesis/$SCHEMATHESIS_VERSION"
    fi
    install_apart heroku-client "$HEROKU_CLIENT_VERSION"
    install_apart heroku-builds "$HEROKU_BUILDS_VERSION"
    apt_install wrk pebble openssl runc libfaketime
    [ "$(dpkg --print-architecture)" != amd64 ] || install_guest
    if ! is_installed postgresql; then
        # The tests make clusters of their own; the machine needs none.
        mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
        apt_install postgresql
    fi
}

# For the tests that run in a virtual machine: its kernel is unpacked into target/tools, not installed.
install_guest() {
    local kernel=$tools/guest-kernel package
    apt_install qemu-system-x86 busybox-static cpio kmod
    [ ! -e "$kernel/boot" ] || return 0
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image[^ ]*\)$/\1/p')
    say "unpacking the kernel ${package:-linux-image-cloud-amd64} into target/tools"
    rm -rf "$kernel" && mkdir -p "$kernel.part" && (cd "$kernel.part" && apt-get download -qq "$package" && dpkg-deb -x ./*.deb . && rm ./*.deb) \
        >"$tools/guest-kernel.log" 2>&1 && mv "$kernel.part" "$kernel" ||
        say "there is no kernel for a virtual machine, tests in it are skipped (why: $tools/guest-kernel.log)"
}

# Their services are neither started now nor at the next boot: only the programs are wanted.
install_for_bench() {
    local policy=/usr/sbin/policy-rc.d missing=() package
    for package in nginx haproxy caddy bubblewrap crun; do is_installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap "rm -f $policy" EXIT
    fi
    apt_install "${missing[@]}"
    ! command -v systemctl >/dev/null || systemctl disable -q "${missing[@]}" 2>/dev/null || true
}

case "${1:-run}" in
    run) install_for_run ;;
    test) install_for_run; install_for_test ;;
    bench) install_for_run; install_for_test; install_for_bench ;;
    *) die "usage: scripts/setup.sh [run|test|bench]" ;;
esac
