# shellcheck shell=bash
# What the scripts share: progress lines, root, packages, hugepages, a trap that cleans up.
#
# In:    sourced by every script here, after `set -euo pipefail`; callers sit in the repository's root.
# Out:   functions only. Nothing runs by being sourced but the clock and ROOT.
# Never: writes outside target/ and the run's own temporary folder, or ends a process it did not start.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STARTED=$EPOCHREALTIME

# One visible line of progress, with the seconds since the script began.
say() {
    local elapsed=$(( (${EPOCHREALTIME/[.,]/} - ${STARTED/[.,]/}) / 1000 ))
    printf '[%3d.%03d s] %s\n' $((elapsed / 1000)) $((elapsed % 1000)) "$*" >&2
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo: $*"
    fi
}

# Cargo runs what it built (tests, the demo) as root; building stays with the user who owns the toolchain.
run_built_as_root() {
    [ "$(id -u)" = 0 ] && return
    command -v sudo >/dev/null || die "the scenarios make network namespaces: run this as root or install sudo"
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo --preserve-env"
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]
}

# Installs those of the named packages that are missing, and says which.
need_packages() {
    command -v dpkg-query >/dev/null || die "this is no Debian system; install by hand: $*"
    local missing=() name log installer
    for name in "$@"; do
        installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]}"
    log=$(mktemp)
    apt_install "${missing[@]}" </dev/null >"$log" 2>&1 &
    installer=$!
    while sleep 5 && kill -0 $installer 2>/dev/null; do
        say "  $(grep -c '^Setting up' "$log" || true) packages set up; apt: $(tail -n 1 "$log" | cut -c 1-60)"
    done
    if ! wait $installer; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "apt could not install ${missing[*]}; on Debian 12 or 13, try: apt-get update && apt-get install ${missing[*]}"
    fi
    rm -f "$log"
}

# Whatever services the packages have are not started, nor at the next boot: the scenarios run programs of their own.
apt_install() {
    local policy=/usr/sbin/policy-rc.d status=0 name
    [ ! -e $policy ] || policy=
    [ -z "$policy" ] || printf '#!/bin/sh\nexit 101\n' | as_root install -m 0755 /dev/stdin "$policy"
    as_root apt-get update -q &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" || status=$?
    [ -z "$policy" ] || as_root rm -f "$policy"
    for name in "$@"; do
        [ "$name" != prometheus ] || ! command -v systemctl >/dev/null || as_root systemctl disable -q prometheus
    done
    return $status
}

# To build: a C toolchain, DPDK, and what bindgen wants.
BUILD_PACKAGES=(gcc libc6-dev pkgconf clang libclang-dev libdpdk-dev)
# To run: a guest, real peers, and eyes on the wire.
# (dpdk-testpmd is in dpdk-dev.)
SCENARIO_PACKAGES=(
    qemu-system-x86 busybox-static cpio xz-utils socat iputils-ping
    wireguard-go wireguard-tools dpdk-dev iperf3 tcpdump tshark ethtool iproute2 nftables procps
    prometheus python3-venv chromium-headless-shell
    iputils-arping frr openssh-server openssh-client
    udhcpc isc-dhcp-client dhcpcd-base kea-admin ndisc6
    dnsmasq-base isc-dhcp-server radvd
)

need_cargo() {
    # sudo resets PATH; rustup's folder is the usual one.
    command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "cargo was not found: install Rust (https://rustup.rs) and try again"
}

# A peer that comes from no Debian package. It is built once, into target/; where that can't be done, the scenario
# that needs it fails and says so.
need_boringtun() {
    local root=${CARGO_TARGET_DIR:-target}/boringtun
    command -v boringtun-cli >/dev/null || [ -x "$root/bin/boringtun-cli" ] && return
    say "building boringtun-cli"
    cargo install --locked --quiet boringtun-cli --root "$root" --target-dir "$root/build" || return 0
    rm -rf "$root/build"
}

# A client that knows the API by its description alone, from PyPI. The same way: once, into target/.
SCHEMATHESIS=4.32.5
need_schemathesis() {
    local root=${CARGO_TARGET_DIR:-target}/schemathesis
    [ "$("$root/bin/schemathesis" --version 2>/dev/null)" != "schemathesis, version $SCHEMATHESIS" ] || return 0
    say "installing schemathesis"
    { python3 -m venv --clear "$root" && "$root/bin/pip" install --quiet "schemathesis==$SCHEMATHESIS"; } || return 0
}

# The reference of the search for throughput, from PyPI. The same way.
MLRSEARCH=1.2.1
need_mlrsearch() {
    local root=${CARGO_TARGET_DIR:-target}/mlrsearch
    [ "$("$root/bin/python" -c 'import importlib.metadata as it; print(it.version("MLRsearch"))' 2>/dev/null)" != "$MLRSEARCH" ] || return 0
    say "installing MLRsearch"
    { python3 -m venv --clear "$root" && "$root/bin/pip" install --quiet "MLRsearch==$MLRSEARCH"; } || return 0
}

# Where several libclang are installed, bindgen takes the newest, with the headers of the default clang: keep the
# two together. With a single one nothing is set, so that cargo run by hand builds nothing again.
need_libclang() {
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    [ "$(compgen -G '/usr/lib/llvm-*/lib/libclang.so*' | cut -d / -f 4 | sort -u | wc -l)" -gt 1 ] || return 0
    local folder
    folder=$(clang -print-resource-dir)
    folder=${folder%/lib*/clang/*}/lib
    if compgen -G "$folder/libclang*.so*" >/dev/null; then
        export LIBCLANG_PATH=$folder
    fi
}

# DPDK's memory: two culverts and two guests of testpmd take less than 1 GiB of 2 MiB pages. Reserves what is
# missing of that, and gives it back. A machine that refuses still works, on ordinary pages, but for testpmd.
HUGEPAGES_BEFORE=
HUGEPAGES_MOUNTED=no
hugepages_up() {
    local want=512 pages=/proc/sys/vm/nr_hugepages free
    free=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 2>/dev/null) || return 0
    if [ "$free" -lt $want ]; then
        HUGEPAGES_BEFORE=$(cat $pages)
        echo $((HUGEPAGES_BEFORE + want - free)) | as_root tee $pages >/dev/null || true
    fi
    if ! grep -q ' hugetlbfs ' /proc/mounts; then
        as_root mkdir -p /dev/hugepages
        as_root mount -t hugetlbfs none /dev/hugepages && HUGEPAGES_MOUNTED=yes
    fi
    return 0
}

hugepages_down() {
    if [ $HUGEPAGES_MOUNTED = yes ]; then
        as_root umount /dev/hugepages 2>/dev/null || true
        HUGEPAGES_MOUNTED=no
    fi
    if [ -n "$HUGEPAGES_BEFORE" ]; then
        echo "$HUGEPAGES_BEFORE" | as_root tee /proc/sys/vm/nr_hugepages >/dev/null || true
        HUGEPAGES_BEFORE=
    fi
}

# Namespaces and scratch folders of runs that have ended without removing them: their names carry the run's
# process id.
sweep() {
    local name pid
    for name in $(ip netns list 2>/dev/null | grep -o '^cv-[0-9]*-[^ ]*' || true); do
        pid=${name#cv-}
        [ -e "/proc/${pid%%-*}" ] || as_root ip netns del "$name" 2>/dev/null || true
    done
    for name in "${TMPDIR:-/tmp}"/cv-[0-9]*-[0-9]*; do
        pid=${name##*/cv-}
        [ ! -d "$name" ] || [ -e "/proc/${pid%%-*}" ] || as_root rm -rf "$name"
    done
}
