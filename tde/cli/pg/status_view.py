"""The output of ``tde pg status`` for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from tde.cli.pg.copies_view import not_seen
from tde.console.output import console
from tde.postgres.cluster.accepted_lines import accept_hint
from tde.postgres.cluster.status import ClusterStatus
from tde.postgres.server.counters import IoCounters
from tde.postgres.tablespace.plain_copies import PlainCopies
from tde.printable import printable

_MEBIBYTE = 1 << 20
_COPIES_SHOWN = 5


def print_status(status: ClusterStatus, copies: PlainCopies) -> None:
    """Print the status as a table of facts; what needs attention is red."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Cluster", Text(str(status.data_directory)))
    facts.add_row("Server", _server(status))
    if status.running:
        facts.add_row("Socket", Text(f"{status.socket_directory or 'none'}, port {status.port}"))
    facts.add_row("Checksums", "on" if status.data_checksums else "[yellow]off[/]")
    facts.add_row("Encryption", _encryption(status))
    if status.left_journal:
        facts.add_row("Conversion", Text(status.left_journal, "yellow"))
        facts.add_row("", "What to do: tde pg doctor")
    if status.encrypted:
        _add_encryption_rows(facts, status)
        _add_copies(facts, copies)
    console.print(facts)


def _server(status: ClusterStatus) -> str:
    version = f"PostgreSQL {status.server_version}"
    if not status.running:
        return f"{version}, [yellow]not running[/] ({status.state})"
    ready = "running" if status.ready else "running, not ready for connections"
    return f"{version}, [green]{ready}[/] (pid {status.pid})"


def _encryption(status: ClusterStatus) -> str:
    if not status.encrypted:
        return "[yellow]none[/]: this cluster was created without a keystore"
    if status.interposed is None:
        if not status.running:
            return f"scope {status.scope}"
        return f"scope {status.scope}; [yellow]cannot tell whether the server encrypts[/]"
    if status.interposed:
        return f"scope {status.scope}; [green]the server encrypts[/]"
    return f"scope {status.scope}; [bold red]the server runs WITHOUT encryption[/]"


def _add_encryption_rows(facts: Table, status: ClusterStatus) -> None:
    if status.libcrypto is not None:
        library = f"{status.libcrypto_version or 'unknown version'} ({status.libcrypto})"
        facts.add_row("Encrypts with", Text(printable(library)))
    facts.add_row("Keystore", Text(f"{status.keystore} ({status.keystore_uuid})"))
    if status.keystore_problem:
        facts.add_row("", Text(status.keystore_problem, "bold red"))
    for n, way in enumerate(status.auto_open):
        facts.add_row("Auto-open" if n == 0 else "", Text(way))
    if status.closed:
        facts.add_row("", "[yellow]closed for sessions[/]: tde keystore open -D DIR")
    for oid in status.locked:
        facts.add_row(f"Tablespace {oid}", "[yellow]locked[/]: tde tablespace unlock NAME -D DIR")
    for name, protection in status.protections.items():
        label = name if name == "WAL" else f"Tablespace {name}"
        facts.add_row(label, protection)
    for oid in status.tablespaces_without_key:
        facts.add_row(f"Tablespace {oid}", "[bold red]NO KEY[/]: the server refuses to open it")
    for n, line in enumerate(status.new_lines):
        facts.add_row("New lines" if n == 0 else "", Text(line, "bold red"))
    if status.new_lines:
        hint = f"Each runs a program or loads a library. {accept_hint(status.data_directory)}"
        facts.add_row("", Text(hint))
    for n, finding in enumerate(status.key_ages):
        facts.add_row("Key ages" if n == 0 else "", Text(finding.detail, "yellow"))
        facts.add_row("", Text(finding.remedy))
    if status.counters is not None:
        facts.add_row("Since start", _traffic(status.counters))


def _add_copies(facts: Table, found: PlainCopies) -> None:
    title = "Plaintext copies"
    for copy in found.copies[:_COPIES_SHOWN]:
        facts.add_row(title, Text(copy.problem, "bold red"))
        title = ""
    if found.copies:
        more = len(found.copies) - _COPIES_SHOWN
        several = f"… and {more:,} more; see --json. " if more > 0 else ""
        facts.add_row("", f"{several}What to do: tde pg doctor")
        title = ""
    elif found.possible and found.all_seen:
        facts.add_row(title, "[green]none[/] of rows in encrypted tablespaces")
    for line in not_seen(found):
        facts.add_row(title, Text(line, "yellow"))
        title = ""


def _traffic(counters: IoCounters) -> str:
    return (
        f"{counters.bytes_encrypted / _MEBIBYTE:,.1f} MiB encrypted, "
        f"{counters.bytes_decrypted / _MEBIBYTE:,.1f} MiB decrypted"
    )
