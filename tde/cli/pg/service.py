"""``tde pg register`` and ``unregister``: encrypted clusters that Debian's programs start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.algorithms import Algorithm
from tde.cli.forms import Form, require_options_of
from tde.cli.options import (
    OPENING_OPTIONS,
    AesOption,
    BindirOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.cli.pg.install_bin import open_for_programs
from tde.console.apps import examples
from tde.console.options import algorithm_of
from tde.console.output import console
from tde.errors import DataDirectoryError, TdeError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.scope import Scope

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.server.debian_layout import DebianCluster
    from tde.postgres.service.registration import Leftover

ClusterArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CLUSTER|VERSION",
        help="As pg_lsclusters names it: 15/main. 15 alone: all clusters of that version.",
    ),
]

_CLUSTER = Form(
    "one cluster",
    "tde pg register 15/main",
    frozenset({"cluster", "keystore", "directory", "bindir"}),
)
_VERSION = Form(
    "a whole version",
    "tde pg register 15",
    frozenset({"cluster", "keystore", "aes", "scope", *OPENING_OPTIONS}),
)
_REFRESH = Form(
    "everything that is registered", "tde pg register --refresh", frozenset({"refresh"})
)


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


@opens_keystore
def register_cluster(
    context: typer.Context,
    cluster: ClusterArgument = None,
    keystore: KeystoreOption = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--bin",
            metavar="DIR",
            help="With a cluster: where the programs that stand for PostgreSQL's go. Default: "
            "below /var/lib/tde/bin for root, else below ~/.local/share/tde/bin.",
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
            help="Bring the programs of all that is registered up to date with this tde, and "
            "remove those of clusters that were dropped. It opens no keystore; running servers "
            "keep what they have until their next start.",
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
    forms = (_CLUSTER, _VERSION, _REFRESH)
    if refresh:
        _require_no_name(cluster, "--refresh")
        require_options_of(_REFRESH, forms, context)
        _refresh()
    elif cluster is None:
        raise _unnamed("--refresh")
    elif cluster.isdecimal():
        require_options_of(_VERSION, forms, context)
        with open_for_programs(require_keystore(keystore), source) as opened:
            _register_version(int(cluster), opened, algorithm_of(aes), scope)
    else:
        require_options_of(_CLUSTER, forms, context)
        _register_cluster(cluster, keystore, directory, bindir)


def _unnamed(everything: str) -> typer.BadParameter:
    return typer.BadParameter(
        f"no cluster was named: name it as pg_lsclusters does, or use {everything}"
    )


def _require_no_name(cluster: str | None, option: str) -> None:
    if cluster is not None:
        raise typer.BadParameter(
            f"{option} is for everything that is registered, and {cluster} was named too: leave "
            "one of them out"
        )


def _register_cluster(
    name: str, keystore: Path | None, directory: Path | None, bindir: Path | None
) -> None:
    from tde.postgres.server.debian_layout import find_debian_cluster
    from tde.postgres.service.registration import register_cluster as register_one

    made = register_one(find_debian_cluster(name), keystore, directory=directory, bindir=bindir)
    _say(
        f"Registered {made.cluster}: pg_ctlcluster starts it with {made.programs.path}/postgres, "
        f"and the keystore {made.keystore} opens by itself",
        f"Start it: pg_ctlcluster {made.cluster.major} {made.cluster.name} start, or systemctl "
        f"start postgresql@{made.cluster.major}-{made.cluster.name}",
    )


def _refresh() -> None:
    from tde.postgres.service.registration import refresh_registered

    failed: list[TdeError] = []
    gone: list[Leftover] = []
    try:
        gone = _remove_leftovers()
    except TdeError as error:
        failed.append(error)
    refreshed, failed_too = refresh_registered()
    _say(*(f"{made.path} is up to date." for made in refreshed))
    failed += failed_too
    if not (refreshed or gone or failed):
        _say("No cluster is registered.")
    _fail(failed)


def _fail(errors: Sequence[TdeError]) -> None:
    """Report together what went wrong with some of many.

    Raises:
        TdeError: something did.
    """
    if errors:
        raise TdeError(
            "; ".join(map(str, errors)), remedy=" ".join(error.remedy or "" for error in errors)
        )


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _register_version(major: int, keystore: Keystore, algorithm: Algorithm, scope: Scope) -> None:
    from tde.postgres.service.diversion import divert_programs

    made = divert_programs(major, keystore, algorithm=algorithm, scope=scope)
    _say(
        f"Registered PostgreSQL {major}: pg_createcluster makes clusters with keys of "
        f"{keystore.path}, and all of Debian's tools work on them",
        f"PostgreSQL's own programs are in {made.programs.bindir}.",
        *(
            f"{cluster} is no longer registered by itself, which is not needed now."
            for cluster in made.taken_back
        ),
    )


def unregister_cluster(
    cluster: ClusterArgument = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All versions and clusters, as before tde is removed.")
    ] = False,
) -> None:
    """Let pg_ctlcluster start a cluster with PostgreSQL's own server again.

    An encrypted cluster starts with tde pg start only, then; pg_ctlcluster is refused. Data and
    keystores stay as they are, and so do servers that run. With a version, clusters of it that had
    been registered by themselves are so again.

    Programs of clusters that were dropped since are removed.
    """
    if everything:
        _require_no_name(cluster, "--all")
        _unregister_everything()
    elif cluster is None:
        raise _unnamed("--all")
    elif cluster.isdecimal():
        _unregister_version(int(cluster))
    else:
        _unregister_named(cluster)
    _remove_leftovers()


def _unregister_version(major: int) -> None:
    from tde.postgres.service.diversion import restore_clusters, undivert_programs

    was_registered = undivert_programs(major)
    restored = restore_clusters(major)
    if was_registered:
        _say(f"PostgreSQL {major} has its own programs again.")
    elif not restored.registered and not restored.failed:
        _say(f"PostgreSQL {major} is not registered.")
        return
    _say(
        *(
            f"{cluster} is registered by itself again, as before."
            for cluster in restored.registered
        ),
        *(
            f"{cluster} is encrypted. For pg_ctlcluster to start it: tde pg register {cluster}"
            for cluster in restored.left
        ),
    )
    _fail(restored.failed)


def _unregister_everything() -> None:
    from tde.postgres.server.debian_layout import debian_clusters
    from tde.postgres.service.diversion import (
        diverted_versions,
        encrypted_clusters,
        undivert_programs,
    )
    from tde.postgres.service.registration import unregister_cluster as unregister_one

    for major in diverted_versions():
        undivert_programs(major)
        _say(f"PostgreSQL {major} has its own programs again.")
    failed = []
    for cluster in debian_clusters():
        try:
            directory = unregister_one(cluster)
        except (OSError, TdeError) as error:
            failed.append(TdeError(f"{cluster}: {error}", remedy=getattr(error, "remedy", "")))
            continue
        if directory is not None:
            _say(f"{cluster} is no longer registered.", *_kept(directory))
    left = encrypted_clusters()
    if left:
        names = ", ".join(map(str, left))
        _say(
            f"Encrypted, so from now on neither pg_ctlcluster nor systemd starts them: {names}. "
            "Their data and keystores stay as they are.",
            "Nothing but tde starts them and reads their data. To do without it, decrypt each with "
            f"its server stopped (tde pg decrypt -D {left[0].data_directory}) before tde is "
            "removed. If it was removed, install it again.",
        )
    _fail(failed)


def _unregister_named(name: str) -> None:
    from tde.postgres.server.debian_layout import find_debian_cluster

    left = _remove_leftovers()
    try:
        found = find_debian_cluster(name)
    except DataDirectoryError:
        if any(one.cluster.is_called(name) for one in left):
            return  # It was dropped, and nothing is left of it now.
        raise
    _unregister_cluster(found)


def _unregister_cluster(found: DebianCluster) -> None:
    from tde.postgres.cluster.marker import read_marker
    from tde.postgres.service import diversion, registration

    directory = registration.unregister_cluster(found)
    if diversion.starts_with_version(found):
        _say(
            f"{found} is not registered by itself. PostgreSQL {found.major} is, as a whole, so "
            f"pg_ctlcluster starts it: tde pg unregister {found.major}"
        )
    elif directory is None:
        _say(f"{found} is not registered.")
    else:
        _say(f"{found} is started with PostgreSQL's own server from its next start on.")
        if read_marker(found.data_directory) is not None:
            _say(
                "It is encrypted, so pg_ctlcluster and systemd will not start it: tde pg start -D "
                f"{found.data_directory}"
            )
    if directory is not None:
        _say(*_kept(directory))


def _kept(directory: Path) -> list[str]:
    return [f"The programs in {directory} are still there."] if directory.exists() else []


def _remove_leftovers() -> list[Leftover]:
    from tde.postgres.service.registration import remove_leftovers

    left = remove_leftovers()
    for one in left:
        if one.is_removed:
            _say(f"{one.cluster} was dropped, and {one.programs} was removed.")
        elif one.programs.exists():
            _say(
                f"{one.cluster} was dropped. The programs in {one.programs}, which were made for "
                "it, are still there."
            )
        else:
            _say(f"{one.cluster} was dropped.")
    return left
