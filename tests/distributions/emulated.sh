#!/usr/bin/env bash
# Run a command where the kernel starts programs for 64-bit ARM with QEMU. Needs root.
#
#   QEMU=PROGRAM tests/distributions/emulated.sh COMMAND [ARGUMENT ...]
#
# PROGRAM is a statically linked qemu-aarch64; by default Debian's, of the package qemu-user-static.
# The kernel is told in a namespace of the command that has all users of this machine (binfmt_misc
# has namespaces since Linux 6.7), so the machine knows nothing of it, and nothing is left behind.
# A machine that runs such programs already, by itself or with QEMU, runs the command as it is.
set -euo pipefail

fail() { echo "$(basename "$0"): $1" >&2; exit 1; }

formats=/proc/sys/fs/binfmt_misc
qemu=${QEMU:-/usr/bin/qemu-aarch64-static}

# Wait at most ten seconds for something that takes a moment.
wait_until() {
    local turn
    for turn in {1..100}; do
        ! "$@" || return 0
        sleep 0.1
    done
    return 1
}

is_elsewhere() { [ "$(readlink "/proc/$1/ns/user")" != "$2" ]; }
has_users() { grep -q . /proc/self/uid_map && grep -q . /proc/self/gid_map; }

# All users are given by somebody outside of the namespace, who has them: the last step of the
# command in front of it, which goes on by itself.
give_users() {
    wait_until is_elsewhere "$1" "$2" || return
    echo "0 0 4294967295" >"/proc/$1/uid_map"
    echo "0 0 4294967295" >"/proc/$1/gid_map"
}

# What `:name:M::magic:mask:interpreter:flags` says: an ELF file of 64 bits, least byte first, a
# program or a shared object (the lowest bit of its kind does not count), for machine 183. The
# kernel opens QEMU now (F), which is outside of each chroot, and programs keep their name (P), their
# rights (C) and their open file (O).
tell_kernel() {
    local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":qemu-aarch64:M::$magic:$mask:$qemu:POCF" >"$formats/register"
}

[ $# -gt 0 ] || fail "name a command"
case ${EMULATED_STEP:-} in
    '')
        [ "$(id -u)" = 0 ] || fail "only root can take all users into a namespace"
        if [ "$(uname -m)" = aarch64 ] || grep -qs '^enabled$' "$formats/qemu-aarch64"; then
            exec "$@"
        fi
        [ -x "$qemu" ] || fail "$qemu is missing; run: apt-get install qemu-user-static"
        unshare --user true 2>/dev/null ||
            fail "no namespace of users can be made here: this is a chroot, or the kernel forbids it"
        ( give_users $$ "$(readlink /proc/self/ns/user)" & )
        EMULATED_STEP=users exec unshare --user "$0" "$@" ;;
    users)
        wait_until has_users || fail "the namespace did not get its users"
        EMULATED_STEP=kernel exec unshare --mount --propagation private "$0" "$@" ;;
    kernel)
        mount -t binfmt_misc binfmt_misc "$formats" && tell_kernel ||
            fail "this kernel knows programs of other machines only for the whole machine, \
and was not told of these; run: apt-get install qemu-user-static binfmt-support"
        exec env --unset=EMULATED_STEP "$@" ;;
esac
