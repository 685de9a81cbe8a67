"""``tde pg register``, ``unregister`` and ``unit``: encrypted servers that others start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.algorithms import Algorithm
from tde.cli.options import (
    AesOption,
    BindirOption,
    KeystoreOption,
    OsUserOption,
    opens_keystore,
    require_keystore,
)
from tde.cli.pg.install_bin import open_for_programs
from tde.console.apps import examples
from tde.console.options import algorithm_of
from tde.console.output import console
from tde.errors import TdeError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.scope import Scope

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.server.debian_layout import DebianCluster
    from tde.postgres.service.systemd import Credential

ClusterArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CLUSTER|VERSION",
        help="As pg_lsclusters names it: 15/main. 15 alone: all clusters of that version.",
    ),
]
CredentialOption = Annotated[
    list[str] | None,
    typer.Option(
        "--credential",
        metavar="NAME:FILE",
        help="Hand this credential to the server (LoadCredential=). May be repeated.",
    ),
]
EncryptedCredentialOption = Annotated[
    list[str] | None,
    typer.Option(
        "--encrypted-credential",
        metavar="NAME:FILE",
        help="The same for one that systemd-creds has encrypted (LoadCredentialEncrypted=).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(
        "register",
        epilog=examples(
            "tde keystore auto-open enable --keystore /etc/tde/main",
            "tde pg register 15/main",
            "systemctl restart postgresql@15-main",
            "# For pg_createcluster and pg_upgradecluster, too:",
            "tde pg register 15 --keystore /etc/tde/main",
            "# After an upgrade of tde:",
            "tde pg register --refresh",
        ),
    )(register_cluster)
    app.command(
        "unregister",
        epilog=examples(
            "tde pg unregister 15/main", "tde pg unregister 15", "tde pg unregister --all"
        ),
    )(unregister_cluster)
    app.command(
        "unit",
        epilog=examples(
            "# A drop-in for the unit of a registered cluster of Debian's:",
            "mkdir -p /etc/systemd/system/postgresql@15-main.service.d",
            "tde pg unit 15/main > /etc/systemd/system/postgresql@15-main.service.d/tde.conf",
            "# A whole unit for any other cluster:",
            "tde pg unit -D /srv/pg/main --bin /opt/tde/bin > /etc/systemd/system/pg-main.service",
        ),
    )(print_unit)


@opens_keystore
def register_cluster(
    cluster: ClusterArgument = None,
    keystore: KeystoreOption = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--bin",
            metavar="DIR",
            help="Where the programs that stand for PostgreSQL's go. Default: below "
            "/var/lib/tde/bin for root, else below ~/.local/share/tde/bin.",
        ),
    ] = None,
    aes: AesOption = 256,
    scope: Annotated[
        Scope, typer.Option(help="With a version: what its new clusters encrypt.")
    ] = Scope.CLUSTER,
    bindir: BindirOption = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="Bring the programs of all that is registered up to date with this tde. It opens "
            "no keystore; running servers keep what they have until their next start.",
        ),
    ] = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Let pg_ctlcluster and systemd start an encrypted cluster of Debian's.

    For a cluster of pg_createcluster that tde pg encrypt has encrypted. From its next start on,
    pg_ctlcluster, systemctl and the start at boot work as for a plain one. The keystore must open
    by itself (tde keystore auto-open enable), because none of them can ask for a passphrase.

    It changes pg_ctl_options in the cluster's pg_ctl.conf. After an upgrade of tde run it again, or
    once with --refresh for everything; the Debian package does that itself.

    With a version instead of a cluster, root replaces that version's programs by stand-ins (with
    dpkg-divert, which upgrades respect): pg_createcluster then makes encrypted clusters with the
    keys of --keystore, and pg_upgradecluster works. Plain clusters work as before. In a keystore
    without keys they are made here, which takes the passphrase.
    """
    from tde.postgres.server.debian_layout import find_debian_cluster
    from tde.postgres.service import registration

    if refresh:
        _require_no_name(cluster, "--refresh")
        _refresh()
        return
    if cluster is None:
        raise _unnamed("--refresh")
    if cluster.isdecimal():
        with open_for_programs(require_keystore(keystore), source) as opened:
            _register_version(int(cluster), opened, algorithm_of(aes), scope)
        return
    made = registration.register_cluster(
        find_debian_cluster(cluster), keystore, directory=directory, bindir=bindir
    )
    console.print(
        f"Registered {made.cluster}: pg_ctlcluster starts it with {made.programs.path}/postgres, "
        f"and the keystore {made.keystore} opens by itself\n"
        f"Start it: pg_ctlcluster {made.cluster.major} {made.cluster.name} start, or systemctl "
        f"start postgresql@{made.cluster.major}-{made.cluster.name}",
        markup=False,
        soft_wrap=True,
    )


def _unnamed(everything: str) -> TdeError:
    return TdeError(
        "no cluster was named", remedy=f"Name it as pg_lsclusters does, or use {everything}."
    )


def _require_no_name(cluster: str | None, option: str) -> None:
    if cluster is not None:
        raise TdeError(
            f"{option} is for everything that is registered, and {cluster} was named too",
            remedy=f"Leave one of them out: {option} or {cluster}.",
        )


def _refresh() -> None:
    from tde.postgres.service.registration import refresh_registered

    refreshed, failed = refresh_registered()
    for made in refreshed:
        console.print(f"{made.path} is up to date.", markup=False, soft_wrap=True)
    if not refreshed and not failed:
        console.print("No cluster is registered.")
    if failed:
        raise TdeError(
            "; ".join(map(str, failed)), remedy=" ".join(error.remedy or "" for error in failed)
        )


def _register_version(major: int, keystore: Keystore, algorithm: Algorithm, scope: Scope) -> None:
    from tde.postgres.service.diversion import divert_programs

    made = divert_programs(major, keystore, algorithm=algorithm, scope=scope)
    console.print(
        f"Registered PostgreSQL {major}: pg_createcluster makes clusters with keys of "
        f"{keystore.path}, and all of Debian's tools work on them\n"
        f"PostgreSQL's own programs are in {made.programs.bindir}.",
        *(
            f"{cluster} is no longer registered by itself, which is not needed now."
            for cluster in made.taken_back
        ),
        sep="\n",
        markup=False,
        soft_wrap=True,
    )


def _unregister_version(major: int) -> None:
    from tde.postgres.service.diversion import undivert_programs

    left = undivert_programs(major)
    if left is None:
        console.print(f"PostgreSQL {major} is not registered.")
        return
    console.print(f"PostgreSQL {major} has its own programs again.")
    for cluster in left:
        console.print(
            f"{cluster} is encrypted. For pg_ctlcluster to start it: tde pg register {cluster}",
            markup=False,
            soft_wrap=True,
        )


def unregister_cluster(
    cluster: ClusterArgument = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All versions and clusters, as before tde is removed.")
    ] = False,
) -> None:
    """Let pg_ctlcluster start a cluster with PostgreSQL's own server again.

    An encrypted cluster starts with tde pg start only, then; pg_ctlcluster is refused. Data and
    keystores stay as they are, and so do servers that run.
    """
    from tde.postgres.server.debian_layout import find_debian_cluster

    if everything:
        _require_no_name(cluster, "--all")
        _unregister_everything()
        return
    if cluster is None:
        raise _unnamed("--all")
    if cluster.isdecimal():
        _unregister_version(int(cluster))
        return
    _unregister_cluster(find_debian_cluster(cluster))


def _unregister_everything() -> None:
    from tde.postgres.server.debian_layout import debian_clusters
    from tde.postgres.service.diversion import diverted_versions, encrypted_clusters
    from tde.postgres.service.registration import registered_programs

    for major in diverted_versions():
        _unregister_version(major)
    for cluster in debian_clusters():
        if registered_programs(cluster) is not None:
            _unregister_cluster(cluster)
    left = ", ".join(map(str, encrypted_clusters()))
    if left:
        console.print(
            f"Encrypted, so from now on neither pg_ctlcluster nor systemd starts them: {left}. "
            "Their data and keystores stay as they are.",
            markup=False,
            soft_wrap=True,
        )


def _unregister_cluster(found: DebianCluster) -> None:
    from tde.postgres.cluster.marker import read_marker
    from tde.postgres.service import registration

    directory = registration.unregister_cluster(found)
    if directory is None:
        console.print(f"{found} is not registered.", markup=False)
        return
    kept = f"\nThe programs in {directory} are still there." if directory.exists() else ""
    refused = (
        f"\nIt is encrypted, so pg_ctlcluster and systemd will not start it: tde pg start -D "
        f"{found.data_directory}"
        if read_marker(found.data_directory) is not None
        else ""
    )
    console.print(
        f"{found} is started with PostgreSQL's own server from its next start on.{refused}{kept}",
        markup=False,
        soft_wrap=True,
    )


def print_unit(
    cluster: Annotated[
        str | None,
        typer.Argument(
            metavar="[CLUSTER]", help="Of Debian's, such as 15/main: print a drop-in for its unit."
        ),
    ] = None,
    pgdata: Annotated[
        Path | None,
        typer.Option(
            "--pgdata", "-D", metavar="DIR", help="The data directory of any other cluster."
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--bin", metavar="DIR", help="With -D: a directory of tde pg install-bin."),
    ] = None,
    credential: CredentialOption = None,
    encrypted_credential: EncryptedCredentialOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Print a unit of systemd for an encrypted server, or what Debian's own unit lacks.

    No core dumps, no swap, memory that may be locked; with the credential with which the keystore
    opens, if it is bound to one. Check it with systemd-analyze verify.
    """
    from tde.postgres.server.debian_layout import find_debian_cluster
    from tde.postgres.server.os_user import name_of_user, server_os_user
    from tde.postgres.service import systemd

    credentials = _credentials(credential, is_encrypted=False)
    credentials += _credentials(encrypted_credential, is_encrypted=True)
    if cluster is not None:
        owner = server_os_user(find_debian_cluster(cluster).data_directory, name=os_user)
        typer.echo(systemd.drop_in(name_of_user(owner), credentials), nl=False)
        return
    if pgdata is None or directory is None:
        missing = "cluster" if pgdata is None else "directory of programs"
        raise TdeError(
            f"no {missing} was named",
            remedy="Name a cluster of Debian's, or give -D DIR and --bin DIR; tde pg install-bin "
            "makes the latter.",
        )
    name = name_of_user(server_os_user(pgdata, name=os_user))
    typer.echo(systemd.unit(pgdata.absolute(), directory.absolute(), name, credentials), nl=False)


def _credentials(given: list[str] | None, *, is_encrypted: bool) -> list[Credential]:
    from tde.postgres.service.systemd import Credential

    found = []
    for text in given or ():
        name, colon, source = text.partition(":")
        if not (name and colon and source.startswith("/")):
            raise TdeError(f"{text!r} is not NAME:FILE with the whole path of a file")
        found.append(Credential(name, Path(source), is_encrypted))
    return found
