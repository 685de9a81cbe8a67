"""``tde ha``: what cluster managers need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from tde.cli.options import BindirOption, JsonOption, KeystoreOption, OsUserOption, PgDataOption
from tde.console.apps import examples, new_app
from tde.console.output import VERDICT_STYLES, console, error_console, print_json
from tde.ha.pacemaker import Shell
from tde.postgres.cluster.access import find_cluster

if TYPE_CHECKING:
    from tde.ha.readiness import Readiness

app = new_app(
    "High availability: whether a node can take over, and what cluster managers are told.",
    epilog=examples(
        "tde ha check -D /srv/pg/main",
        "tde ha install-agent",
        "tde ha configure pacemaker --help",
        "tde ha configure patroni --help",
    ),
)
configure = new_app(
    "Print the configuration of a cluster manager.",
    epilog=examples(
        "tde ha configure pacemaker --node n1 --node n2 --service 192.168.0.100/24 "
        "--replication 192.168.1.100/24 --gateway 192.168.0.1 -D /srv/pg/main "
        "--bin /srv/tde/bin -k /srv/tde/keystore --archive /srv/archive",
    ),
)
app.add_typer(configure, name="configure")

_Parsed = TypeVar("_Parsed")
BinOption = Annotated[
    Path,
    typer.Option("--bin", metavar="DIR", help="The directory of tde pg install-bin, on each node."),
]
PlaceOption = Annotated[
    Path,
    typer.Option("--pgdata", "-D", metavar="DIR", help="The data directory, on each node."),
]
KeystorePlaceOption = Annotated[
    Path,
    typer.Option("--keystore", "-k", metavar="DIR", help="The keystore, on each node."),
]
TdeOption = Annotated[
    Path | None,
    typer.Option(
        "--tde", metavar="PATH", help="The program tde, on each node.", show_default="this one"
    ),
]


@app.callback()
def ha() -> None:
    """Hold the commands below the noun."""


@app.command(
    epilog=examples(
        "tde ha check -D /srv/pg/main",
        "tde ha check -D /srv/pg/main --json | jq .score",
        "# In patroni.yml:",
        "pre_promote: tde ha check -D /srv/pg/main --quiet",
    )
)
def check(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--other", metavar="DIGEST", help="The digest of another node, to be compared."
        ),
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Print the score and the digest, and what is wrong.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print what is wrong only.")] = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    _added: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Tell whether this node can be promoted, and its server started again afterwards.

    A standby that runs has its keys in memory, also when its keystore does not open any more. This
    looks at what its next start needs: the keystore opens by itself and has all keys that the
    cluster uses, the directories of the tablespaces are there, and the server's program is one
    that can be encrypted. Nobody is asked for a passphrase, and nothing is changed.

    The score is 100 if so, 0 if not, and 50 for a primary that serves and would not start again.

    Exit code 0: it can; 1: it cannot; 4: no data directory. Words that a manager adds are ignored.
    """
    from tde.ha.readiness import check_node

    found = check_node(find_cluster(pgdata, bindir, os_user), keystore, tuple(others or ()))
    if as_json:
        print_json(_document(found))
    elif score or quiet:
        if score:
            print(found.score, found.digest or "none")
        _say_what_is_wrong(found)
    else:
        _show(found)
    if not found.is_ready:
        raise typer.Exit(1)


@app.command("install-agent", epilog=examples("tde ha install-agent"))
def install_agent(
    ocf_root: Annotated[
        Path, typer.Option("--ocf-root", metavar="DIR", help="Where resource agents are.")
    ] = Path("/usr/lib/ocf"),
    tde: TdeOption = None,
) -> None:
    """Put the resource agent ocf:tde:keystore where Pacemaker finds it. On each node, as root."""
    from tde.ha.pacemaker import install_agent as install

    path = install(ocf_root, tde or _own_program())
    console.print(f"Installed ocf:tde:keystore: {path}", markup=False, soft_wrap=True)


@configure.command(
    epilog=examples(
        "tde ha configure pacemaker --node n1 --node n2 --service 192.168.0.100/24 "
        "--replication 192.168.1.100/24 --gateway 192.168.0.1 -D /srv/pg/main "
        "--bin /srv/tde/bin -k /srv/tde/keystore --archive /srv/archive > pgsql.crm",
        "crm configure load update pgsql.crm",
    )
)
def pacemaker(
    pgdata: PlaceOption,
    keystore: KeystorePlaceOption,
    bin_directory: BinOption,
    nodes: Annotated[
        list[str], typer.Option("--node", metavar="NAME", help="A node, as Pacemaker calls it.")
    ],
    service: Annotated[
        str, typer.Option(metavar="ADDRESS/BITS", help="The address that clients use.")
    ],
    replication: Annotated[
        str, typer.Option(metavar="ADDRESS/BITS", help="The primary's address for the standby.")
    ],
    gateway: Annotated[
        str, typer.Option(metavar="ADDRESS", help="What a node with a network reaches.")
    ],
    archive: Annotated[Path, typer.Option(metavar="DIR", help="The archive of WAL, on each node.")],
    service_nic: Annotated[str, typer.Option(metavar="NAME", help="Its network card.")] = "eth0",
    replication_nic: Annotated[
        str, typer.Option(metavar="NAME", help="Its network card.")
    ] = "eth1",
    repuser: Annotated[str, typer.Option(metavar="ROLE", help="The role that replicates.")] = (
        "repli"
    ),
    pgdba: Annotated[str, typer.Option(metavar="USER", help="Who runs the server.")] = "postgres",
    logfile: Annotated[
        Path, typer.Option(metavar="FILE", help="The server's log, on each node.")
    ] = Path("/var/log/postgresql/pacemaker.log"),
    fencing: Annotated[
        bool,
        typer.Option(
            "--fencing/--no-fencing",
            help="Whether the cluster has a fencing device. Without one it is told to go on.",
        ),
    ] = False,
    shell: Annotated[
        Shell, typer.Option("--format", help="The program that takes it.")
    ] = Shell.CRMSH,
    tde: TdeOption = None,
) -> None:
    """Print the resources of a synchronous pair: server, addresses, network and keystore.

    The set is the one of PostgreSQL's usual agent, ocf:heartbeat:pgsql, with two addresses that
    follow the primary. ocf:tde:keystore (tde ha install-agent) keeps a node from being promoted
    that could not start its server again. Fencing is yours to add.
    """
    from tde.ha.pacemaker import Pair, pacemaker_configuration

    pair = Pair(
        nodes=tuple(nodes),
        service=_parse("--service", service, ip_interface),
        replication=_parse("--replication", replication, ip_interface),
        service_nic=service_nic,
        replication_nic=replication_nic,
        pgdata=pgdata,
        bin_directory=bin_directory,
        keystore=keystore,
        archive=archive,
        gateway=gateway,
        repuser=repuser,
        pgdba=pgdba,
        logfile=logfile,
        tde=tde or _own_program(),
        fencing=fencing,
    )
    typer.echo(pacemaker_configuration(pair, shell), nl=False)


@configure.command(
    epilog=examples(
        "tde ha configure patroni --scope pair --name n1 --address 192.168.1.11 --etcd "
        "192.168.1.13:2379 --network 192.168.1.0/24 -D /srv/pg/main --bin /srv/tde/bin "
        "-k /srv/tde/keystore > patroni.yml",
    )
)
def patroni(
    pgdata: PlaceOption,
    keystore: KeystorePlaceOption,
    bin_directory: BinOption,
    name: Annotated[str, typer.Option(metavar="NAME", help="This node's name.")],
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="This node's address.")],
    etcd: Annotated[list[str], typer.Option(metavar="HOST:PORT", help="A server of etcd.")],
    network: Annotated[
        str, typer.Option(metavar="ADDRESS/BITS", help="From where nodes and clients connect.")
    ],
    scope: Annotated[
        str, typer.Option(metavar="NAME", help="The cluster's name, the same on all nodes.")
    ] = "main",
    port: Annotated[int, typer.Option(help="Of the server.")] = 5432,
    synchronous: Annotated[bool, typer.Option(help="Whether commits wait for a standby.")] = True,
    tde: TdeOption = None,
) -> None:
    """Print a complete patroni.yml of one node, but for the passwords."""
    from tde.ha.patroni import PatroniNode, patroni_configuration

    node = PatroniNode(
        scope=scope,
        name=name,
        address=address,
        port=port,
        etcd=tuple(etcd),
        network=str(_parse("--network", network, ip_network)),
        pgdata=pgdata,
        bin_directory=bin_directory,
        keystore=keystore,
        tde=tde or _own_program(),
        synchronous=synchronous,
    )
    typer.echo(patroni_configuration(node), nl=False)


def _own_program() -> Path:
    from tde.postgres.extension.installing import command_path

    return command_path()


def _parse(option: str, text: str, parse: Callable[[str], _Parsed]) -> _Parsed:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint=option) from error


def _document(found: Readiness) -> dict[str, object]:
    return {"ready": found.is_ready, "score": found.score, **asdict(found)}


def _show(found: Readiness) -> None:
    table = Table.grid(padding=(0, 2))
    for one in found.findings:
        verdict = one.verdict.value
        table.add_row(Text(verdict, VERDICT_STYLES[verdict]), Text(one.title), Text(one.detail))
        if one.remedy:
            table.add_row("", "", Text(one.remedy, "dim"))
    console.print(table)
    words = "It can take over." if found.is_ready else "It CANNOT take over."
    console.print(f"{words} Score {found.score}, digest {found.digest or 'none'}", markup=False)


def _say_what_is_wrong(found: Readiness) -> None:
    for one in found.findings:
        if one.remedy:
            error_console.print(
                f"{one.verdict.value}: {one.detail}; HINT: {one.remedy}",
                markup=False,
                soft_wrap=True,
            )
