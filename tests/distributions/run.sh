#!/usr/bin/env bash
# The tests on another release of Debian, or on 64-bit ARM, in a chroot. Needs root and debootstrap.
#
#   tests/distributions/run.sh [options] trixie|sid|aarch64 [-- arguments of pytest]
#
# The chroot is made from a mirror of Debian and used again by later runs. The last commit of this
# checkout is copied into it, `.ci/run` prepares it as it prepares CI's machine, and runs `make
# test`; with arguments of pytest, only these tests run. trixie has PostgreSQL 17, sid has 18, from
# experimental 19, and from older releases 15 and 17. TESTED_SERVERS="17 19" in the environment
# chooses those that tests of each version run on. aarch64 is Debian 12 for 64-bit ARM with PostgreSQL
# 15, which QEMU runs (emulated.sh); there only the tests of tests/emulation run.
#
#   --root DIR     where the chroot is (default: /var/tmp/tde-SUITE)
#   --mirror URL   Debian's mirror (default: that of this machine)
#   --target NAME  what `make` does there (default: test)
#   --bind DIR     show a directory of this machine in the chroot, for example one with wheels
#   --remove       remove the chroot, and run nothing
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; }
fail() { echo "$(basename "$0"): $1" >&2; exit 1; }

suite='' root='' mirror='' remove='' target='' binds=() original=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --root | --mirror | --bind | --target)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case $1 in
                --root) root=$2 ;;
                --mirror) mirror=$2 ;;
                --target) target=$2 ;;
                --bind) binds+=("$2") ;;
            esac
            shift 2 ;;
        --remove) remove=yes; shift ;;
        --) shift; break ;;
        trixie | sid | aarch64) suite=$1; shift ;;
        *) fail "what is \"$1\"? See --help" ;;
    esac
done
[ -n "$suite" ] || fail "name the release: trixie, sid or aarch64"
[ "$(id -u)" = 0 ] || fail "a chroot is made by root"
: "${root:=/var/tmp/tde-$suite}"
# Only what has this file was made here, and may be removed.
mark=etc/tde-chroot

if [ -n "$remove" ]; then
    [ -e "$root" ] || exit 0
    [ -f "$root/$mark" ] || fail "$root was not made by this script; it stays"
    rm -rf --one-file-system "$root.qemu"
    exec rm -rf --one-file-system "$root"
fi

[ -f "$root/$mark" ] || [ ! -e "$root" ] || fail "$root is there already and is no chroot of this script"

# Any QEMU is for any release. That of Debian 12 (7.2) ends programs that map files, and threads that
# fork, with errors of its own; 10.0 does neither, so the one of Debian 13 is unpacked for this chroot.
bring_qemu() {
    local state=$root.qemu.part key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -x "$root.qemu/usr/bin/qemu-aarch64" ] || return 0
    rm -rf "$state"
    mkdir -p "$state"/{lists,archives}/partial "$state/root"
    find_mirror
    echo "deb [signed-by=$key] $mirror trixie main" >"$state/sources.list"
    cat >"$state/apt.conf" <<END
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$state/lists";
Dir::Cache "$state";
APT::Sandbox::User "root";
END
    (
        cd "$state/archives"
        export APT_CONFIG=$state/apt.conf
        apt-get update -q
        apt-get download -q qemu-user
        dpkg-deb -x qemu-user_*.deb "$state/root"
    )
    mv -T "$state/root" "$root.qemu"
    rm -rf "$state"
}

# The first mirror of this machine that has whole releases, which one of security has not.
find_mirror() {
    [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        sed -n '\|/debian/*$|{p;q}')
    [ -n "$mirror" ] || fail "this machine's sources name no mirror of Debian; name one with --mirror"
}

# All mounts are made in a namespace of this run. However it ends, none is left.
if [ -z "${IN_OWN_MOUNTS:-}" ]; then
    export IN_OWN_MOUNTS=yes
    [ "$suite" = aarch64 ] || exec unshare --mount --propagation private "$0" "${original[@]}"
    bring_qemu
    QEMU=$root.qemu/usr/bin/qemu-aarch64 exec "$(dirname "$0")/emulated.sh" "$0" "${original[@]}"
fi

release=$suite architecture='' variables=()
case $suite in
    trixie) suites=trixie majors=(17) older=() ;;
    sid) suites="sid experimental trixie bookworm" majors=(18 19) older=(15 17) ;;
    aarch64)
        suites=bookworm majors=() older=(15) release=bookworm architecture=arm64
        # In a namespace of users nobody makes devices, which debootstrap knows of such containers.
        variables=(container=lxc EMULATED=qemu) ;;
esac
: "${TESTED_SERVERS:=${older[*]} ${majors[*]}}"

make_chroot() {
    command -v debootstrap >/dev/null || fail "debootstrap is missing; run: apt-get install debootstrap"
    find_mirror
    # Under another name until it is whole, so that no later run takes half of one.
    rm -rf --one-file-system "$root.part"
    # It may mount /proc only where it is init's of its own processes, when it is not everybody's root.
    env "${variables[@]}" unshare --pid --fork --kill-child debootstrap ${architecture:+--arch="$architecture"} --variant=minbase \
        --include=ca-certificates "$release" "$root.part" "$mirror"
    rm -f "$root.part/etc/apt/sources.list"
    # Lists of a mirror that keeps one day of sid are soon out of date; their signatures still count.
    cat >"$root.part/etc/apt/sources.list.d/debian.sources" <<END
Types: deb
URIs: $mirror
Suites: $suites
Components: main
Check-Valid-Until: no
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    touch "$root.part/$mark"
    mv -T "$root.part" "$root"
}

mount_all() {
    # A mount point, or nobody in the chroot could have mounts of their own.
    mount --bind "$root" "$root"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    # This machine's way to packages: names, authorities, and pip's sources.
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    [ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
    local directory
    for directory in "${binds[@]}"; do
        mkdir -p "$root$directory"
        mount --bind "$directory" "$root$directory"
        mount -o remount,bind,ro "$root$directory"
    done
}

# Run a command in the chroot, with a /proc of its own; servers that it leaves end with it. The
# shell is their init: without one, a server that was killed would stay a zombie and seem to run.
inside() {
    unshare --pid --fork --kill-child --mount-proc="$root/proc" bash -c '"$@"; exit' init \
        env --unset=IN_OWN_MOUNTS --chdir=/ "${variables[@]}" TESTED_SERVERS="$TESTED_SERVERS" HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot "$root" "$@"
}

bring_servers() {
    local major packages=()
    for major in "${older[@]}"; do
        [ -x "$root/usr/lib/postgresql/$major/bin/postgres" ] || packages+=("postgresql-$major")
    done
    for major in "${majors[@]}"; do
        [ -d "$root/usr/include/postgresql/$major/server" ] ||
            packages+=("postgresql-$major" "postgresql-server-dev-$major")
    done
    if [ ${#packages[@]} -gt 0 ]; then
        install_packages "${packages[@]}"
    fi
    # Where the servers of Debian put their sockets; systemd makes it at each boot.
    inside install -d -o postgres -g postgres -m 2775 /run/postgresql
}

install_packages() {
    mkdir -p "$root/etc/postgresql-common/createcluster.d"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.d/tde-ci.conf"
    # From experimental, where there is one, apt takes only what it is told to.
    [ ${#majors[@]} -eq 0 ] || cat >"$root/etc/apt/preferences.d/tde-servers" <<END
Package: src:postgresql-${majors[-1]}
Pin: release a=experimental
Pin-Priority: 990
END
    inside apt-get update -q
    inside apt-get install -qy --no-install-recommends git "$@"
}

# What CI runs prepares the chroot, with all that any test wants. For what is tested under emulation
# little is enough, and each package takes long there.
run_there() {
    if [ "$suite" != aarch64 ]; then
        inside /srv/tde/.ci/run "$@"
        return
    fi
    local packages
    packages=$(inside env PYTHON=/usr/bin/python3 /srv/tde/.ci/require --list)
    # shellcheck disable=SC2086 # Names of packages.
    [ -z "$packages" ] || inside apt-get install -qy --no-install-recommends $packages
    inside make -C /srv/tde CI=true PYTHON=/usr/bin/python3 "$@"
}

# The last commit, as it is; what an earlier run built stays, as it does for `make`.
bring_checkout() {
    local here
    here=$(cd "$(dirname "$0")/../.." && pwd)
    [ -d "$root/srv/tde" ] || git init -q "$root/srv/tde"
    git -C "$root/srv/tde" fetch -q "$here" HEAD
    git -C "$root/srv/tde" reset -q --hard FETCH_HEAD
    git -C "$root/srv/tde" clean -fdq
}

[ -f "$root/$mark" ] || make_chroot
mount_all
bring_servers
bring_checkout
[ "$suite" != aarch64 ] || : "${target:=aarch64-here}"
if [ $# -eq 0 ]; then
    run_there ${target:+"$target"}
else
    run_there setup
    inside sh -c 'cd /srv/tde && exec .venv/bin/python -m pytest "$@"' pytest "$@"
fi
