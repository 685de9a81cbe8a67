#!/bin/sh
#
# ocf:tde:keystore - whether the encrypted PostgreSQL cluster of this node could be started now.
#
# A resource agent of the OCF standard 1.1, to be cloned on all nodes. It starts nothing: its monitor
# asks "tde ha check" and keeps the score in a node attribute, by which a location rule lets a node be
# promoted or not (tde ha configure pacemaker prints it). A node without the attribute is not promoted.
#
# tde ha install-agent puts it in its place.

: "${OCF_FUNCTIONS_DIR=${OCF_ROOT:=/usr/lib/ocf}/lib/heartbeat}"
. "${OCF_FUNCTIONS_DIR}/ocf-shellfuncs"

DEFAULT_tde="@TDE@"
DEFAULT_attribute="tde-keystore"

: "${OCF_RESKEY_tde=$DEFAULT_tde}"
: "${OCF_RESKEY_attribute=$DEFAULT_attribute}"
: "${OCF_RESKEY_pgdata=}"
: "${OCF_RESKEY_keystore=}"
: "${OCF_RESKEY_bindir=}"
: "${OCF_RESKEY_pgdba=postgres}"

STATE="${HA_RSCTMP}/tde-keystore-${OCF_RESOURCE_INSTANCE}.state"

meta_data() {
    cat <<END
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="keystore" version="1.0">
<version>1.1</version>
<longdesc lang="en">
Tells whether the encrypted PostgreSQL cluster of a node could be started now: its keystore opens by
itself and has all keys that the cluster uses, the directories of its tablespaces are there, the
server's program is one that can be encrypted, and a server that runs encrypts. The score is kept in a
node attribute, which gates promotion: 100, it could; 50, it serves as the primary now, and would not
start again; 0, it could not.
</longdesc>
<shortdesc lang="en">Gates promotion by the state of the keystore of tde</shortdesc>
<parameters>
<parameter name="pgdata" unique="0" required="1">
<longdesc lang="en">The data directory.</longdesc>
<shortdesc lang="en">data directory</shortdesc>
<content type="string"/>
</parameter>
<parameter name="keystore" unique="0" required="0">
<longdesc lang="en">The keystore, if it is not where the cluster remembers it.</longdesc>
<shortdesc lang="en">keystore</shortdesc>
<content type="string" default=""/>
</parameter>
<parameter name="bindir" unique="0" required="0">
<longdesc lang="en">The programs that the server is started with: the directory of tde pg install-bin.</longdesc>
<shortdesc lang="en">bin directory</shortdesc>
<content type="string" default=""/>
</parameter>
<parameter name="pgdba" unique="0" required="0">
<longdesc lang="en">Who runs the server, and so opens the keystore at its start.</longdesc>
<shortdesc lang="en">user of the server</shortdesc>
<content type="string" default="postgres"/>
</parameter>
<parameter name="tde" unique="0" required="0">
<longdesc lang="en">The program tde.</longdesc>
<shortdesc lang="en">the program tde</shortdesc>
<content type="string" default="$DEFAULT_tde"/>
</parameter>
<parameter name="attribute" unique="0" required="0">
<longdesc lang="en">The node attribute that has the score; another one for each cluster.</longdesc>
<shortdesc lang="en">node attribute</shortdesc>
<content type="string" default="$DEFAULT_attribute"/>
</parameter>
</parameters>
<actions>
<action name="start" timeout="60s"/>
<action name="stop" timeout="20s"/>
<action name="monitor" timeout="60s" interval="30s" depth="0"/>
<action name="validate-all" timeout="20s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
END
}

validate() {
    if [ -z "$OCF_RESKEY_pgdata" ]; then
        ocf_exit_reason "pgdata, the data directory, is not set"
        return "$OCF_ERR_CONFIGURED"
    fi
    if ! [ -x "$OCF_RESKEY_tde" ]; then
        ocf_exit_reason "$OCF_RESKEY_tde is no program: set the parameter tde"
        return "$OCF_ERR_INSTALLED"
    fi
    if ! command -v attrd_updater >/dev/null; then
        ocf_exit_reason "attrd_updater of Pacemaker is not there"
        return "$OCF_ERR_INSTALLED"
    fi
    return "$OCF_SUCCESS"
}

# The digests of the other nodes, a word each.
others() {
    own=$(ocf_attribute_target)
    : "${own:=$(uname -n)}"
    attrd_updater --name "${OCF_RESKEY_attribute}-digest" --query --all 2>/dev/null |
        sed -n 's/.*host="\([^"]*\)" value="\([0-9a-f]*\)".*/\1 \2/p' |
        while read -r host digest; do
            [ "$host" = "$own" ] || echo "$digest"
        done
}

# Whether a primary serves here: then it goes on, whatever its next start would lack.
is_primary() {
    pid=$(head -n 1 "$OCF_RESKEY_pgdata/postmaster.pid" 2>/dev/null) && [ -n "$pid" ] &&
        kill -0 "$pid" 2>/dev/null && ! [ -e "$OCF_RESKEY_pgdata/standby.signal" ]
}

# As the server's user, who opens the keystore at a start: root may be able to read what he cannot.
# Whatever takes too long is ended, well before the cluster manager would give this action up.
ask() {
    if [ "$(id -u)" = 0 ]; then
        set -- runuser -u "$OCF_RESKEY_pgdba" -- "$@"
    fi
    (cd / && timeout -k 5 40 "$@" 2>"$STATE.words")
}

# Ask, and tell the cluster. What is wrong stands in what tde says.
look() {
    set -- "$OCF_RESKEY_tde" ha check -D "$OCF_RESKEY_pgdata" --score
    [ -z "$OCF_RESKEY_keystore" ] || set -- "$@" --keystore "$OCF_RESKEY_keystore"
    [ -z "$OCF_RESKEY_bindir" ] || set -- "$@" --bindir "$OCF_RESKEY_bindir"
    for digest in $(others); do
        set -- "$@" --other "$digest"
    done
    words=$(ask "$@")
    score=${words%% *}
    digest=${words#* }
    case "$score" in
    100 | 50 | 0) ;;
    *)
        echo "tde has not answered, so nobody knows whether the server could be started" >>"$STATE.words"
        score=0 digest=unknown
        is_primary && score=50
        ;;
    esac
    attrd_updater --name "$OCF_RESKEY_attribute" --update "$score" --delay 0
    attrd_updater --name "${OCF_RESKEY_attribute}-digest" --update "$digest" --delay 0
    if [ "$score" -lt 100 ]; then
        ocf_exit_reason "$(tr '\n' ' ' <"$STATE.words")"
        return 1
    fi
    [ -s "$STATE.words" ] && ocf_log warn "$(tr '\n' ' ' <"$STATE.words")"
    return 0
}

# A node that is not ready runs this resource all the same: only promotion is up to the score.
start() {
    validate || return $?
    : >"$STATE" || return "$OCF_ERR_GENERIC"
    look || ocf_log warn "this node is not ready to be promoted"
    return "$OCF_SUCCESS"
}

# A restart of this resource, as after a change of a parameter, must not demote a primary.
stop() {
    if is_primary; then
        attrd_updater --name "$OCF_RESKEY_attribute" --update 50 --delay 0
    else
        attrd_updater --name "$OCF_RESKEY_attribute" --delete
    fi
    attrd_updater --name "${OCF_RESKEY_attribute}-digest" --delete
    rm -f "$STATE" "$STATE.words"
    return "$OCF_SUCCESS"
}

# Degraded means that a failure is near, and that nothing is to be stopped or moved for it.
monitor() {
    [ -e "$STATE" ] || return "$OCF_NOT_RUNNING"
    look || return "${OCF_DEGRADED:-190}"
    return "$OCF_SUCCESS"
}

case "$1" in
meta-data)
    meta_data
    exit "$OCF_SUCCESS"
    ;;
start) start ;;
stop) stop ;;
monitor) monitor ;;
validate-all) validate ;;
usage | help)
    echo "usage: $0 start|stop|monitor|validate-all|meta-data"
    exit "$OCF_SUCCESS"
    ;;
*)
    echo "usage: $0 start|stop|monitor|validate-all|meta-data" >&2
    exit "$OCF_ERR_UNIMPLEMENTED"
    ;;
esac
exit $?
