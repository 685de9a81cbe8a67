"""Checks of what the encryption does not cover: logs, statement texts, passwords in settings."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tde.doctor.examined import Examined
from tde.doctor.settings import Settings
from tde.machine.process_files import process_descriptors
from tde.machine.storage import file_storage
from tde.machine.verdict import Outcome, ok, problem, warning
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.published import read_published_status

_PASSWORD = re.compile(r"\b(ssl)?password\s*=", re.IGNORECASE)
_STATEMENT_TEXTS = ("pg_stat_tmp/pgss_query_texts.stat", "pg_stat/pg_stat_statements.stat")
_PRINTED_TREES = (
    *("debug_print_raw_parse", "debug_print_parse", "debug_print_rewritten", "debug_print_plan"),
)
_RELOAD = "then SELECT pg_reload_conf()"


def check_log_access(examined: Examined) -> Iterator[Outcome]:
    """Tell who may read the server's log, and whether base backups carry it."""
    logs = _log_files(examined)
    for log in logs:
        mode = stat.S_IMODE(log.stat().st_mode)
        if mode & stat.S_IROTH and _is_reachable(log, stat.S_IXOTH):
            yield problem(f"everybody may read {log} (mode {mode:04o})", _mode_remedy(log))
        elif mode & stat.S_IRGRP and _is_reachable(log, stat.S_IXGRP | stat.S_IXOTH):
            yield warning(f"its group may read {log} (mode {mode:04o})", _mode_remedy(log))
        elif log.resolve().is_relative_to(examined.data_directory.resolve()):
            yield warning(
                f"{log} is in the data directory, so base backups carry it in plain text",
                "Put it elsewhere: log_directory, or tde pg start --log. Then remove the old one.",
            )
        else:
            yield ok(f"only its owner may read {log} (mode {mode:04o})")
    if not logs:
        yield ok("no log file exists yet")


def _mode_remedy(log: Path) -> str:
    return f"chmod 0600 {log}, and log_file_mode = 0600 if the server makes its log files itself."


def _log_files(examined: Examined) -> list[Path]:
    """Return the logs that exist: of the collector, of standard error, of the default place."""
    found: list[Path] = []
    directory = examined.data_directory
    with suppress(FileNotFoundError):
        content = read_cluster_file(directory, "current_logfiles")
        for line in content.decode("utf-8", "surrogateescape").splitlines():
            _, _, name = line.partition(" ")  # As "stderr log/postgresql.log".
            found += [directory / name] if name and "\0" not in name else []
    if examined.pid is not None:
        published = read_published_status(examined.pid)
        if published is None:
            target = process_descriptors(examined.pid).get(2, "")
        else:
            target = published.standard_error
        found += [Path(target)] if target.startswith("/") else []
    if examined.cluster is not None:
        found.append(examined.cluster.default_log)
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _is_reachable(path: Path, bits: int) -> bool:
    """Tell whether the modes of all parents let somebody with these bits pass."""
    return all(parent.stat().st_mode & bits for parent in path.absolute().parents)


def check_statements_in_log(examined: Examined) -> Iterator[Outcome]:
    """Tell which settings write values of rows, as parts of statements, into the log."""
    settings = examined.settings
    reasons = list(logged_values(settings))
    if not reasons:
        yield ok("neither statements nor rows are logged with errors")
        return
    detail = "values of rows reach the log: " + ", ".join(name for name, _ in reasons)
    places = [file_storage(examined.machine, log) for log in _log_files(examined)]
    kinds = {kind.strip() for kind in settings.value("log_destination").split(",")}
    if places and kinds <= {"stderr", "csvlog", "jsonlog"}:
        if all(place.encrypted for place in places):
            yield ok(f"{detail}; the log is on an encrypted disk ({places[0].why})")
            return
    elif "syslog" in kinds:
        detail += "; the log goes to syslog, whose files are not the server's"
    changes = "; ".join(f"ALTER SYSTEM SET {change}" for _, change in reasons)
    yield warning(detail, f"{changes}; {_RELOAD}. Or keep the log on an encrypted disk.")


def logged_values(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield settings that log values, each with the change that ends it."""
    if settings.value("log_statement") in ("mod", "all"):
        yield f"log_statement = {settings.value('log_statement')}", "log_statement = ddl"
    for name in ("log_min_duration_statement", "log_min_duration_sample"):
        if settings.value(name) not in ("", "-1"):
            yield f"{name} = {settings.value(name)}", f"{name} = -1"
    if settings.value("log_transaction_sample_rate") not in ("", "0"):
        yield "log_transaction_sample_rate", "log_transaction_sample_rate = 0"
    if settings.value("log_min_error_statement") not in ("", "fatal", "panic"):
        value = settings.value("log_min_error_statement")
        yield f"log_min_error_statement = {value}", "log_min_error_statement = panic"
    if settings.value("log_error_verbosity") not in ("", "terse"):
        value = settings.value("log_error_verbosity")
        yield f"log_error_verbosity = {value}", "log_error_verbosity = terse"
    destinations = {kind.strip() for kind in settings.value("log_destination").split(",")}
    if structured := sorted(destinations & {"csvlog", "jsonlog"}):
        # Their writers do not look at log_error_verbosity.
        value = settings.value("log_destination")
        yield f"log_destination = {value} ({', '.join(structured)})", "log_destination = stderr"
    # Since 19 a list: a level for all processes, and others for kinds of them ("backend:debug2").
    levels = {part.rpartition(":")[2].strip() for part in
              settings.value("log_min_messages").lower().split(",")}  # fmt: skip
    if levels & {"debug", "debug2", "debug3", "debug4", "debug5"}:
        # Each statement of the extended protocol is logged when it is parsed.
        yield f"log_min_messages = {settings.value('log_min_messages')}", "log_min_messages = info"
    if settings.value("log_parameter_max_length_on_error") not in ("", "0"):
        name = "log_parameter_max_length_on_error"
        yield f"{name} = {settings.value(name)}", f"{name} = 0"
    for name in _PRINTED_TREES:
        if settings.is_on(name):
            yield f"{name} = on", f"{name} = off"
    if "auto_explain" in _libraries(settings):
        value = settings.value("auto_explain.log_min_duration")
        if value not in ("", "-1"):
            yield f"auto_explain ({value})", "auto_explain.log_min_duration = -1"
    if "pgaudit" in _libraries(settings) and _is_audited_with_text(settings):
        yield "pgaudit with the text of statements", "pgaudit.log_statement = off"


def _is_audited_with_text(settings: Settings) -> bool:
    """Tell whether pgaudit logs more than definitions and roles, and quotes the statements."""
    if settings.value("pgaudit.log_statement") in ("off", "false", "no", "0"):
        return False
    classes = {each.strip() for each in settings.value("pgaudit.log").lower().split(",")}
    of_session = classes - {"", "none", "ddl", "role"}
    return bool(of_session or settings.value("pgaudit.role"))


def check_statement_texts(examined: Examined) -> Iterator[Outcome]:
    """Tell whether pg_stat_statements keeps constants of statements in plain files."""
    settings = examined.settings
    if "pg_stat_statements" in _libraries(settings):
        if settings.value("pg_stat_statements.track_utility") in ("off", "false", "no", "0"):
            yield ok("pg_stat_statements replaces the constants of the statements that it keeps")
        else:
            yield warning(
                "pg_stat_statements keeps utility statements with their constants in plain files",
                f"ALTER SYSTEM SET pg_stat_statements.track_utility = off, {_RELOAD}, and "
                "SELECT pg_stat_statements_reset().",
            )
        return
    kept = [examined.data_directory / name for name in _STATEMENT_TEXTS]
    kept = [path for path in kept if path.exists() and path.stat().st_size]
    for path in kept:
        yield warning(
            f"{path} is left from pg_stat_statements and holds statements", f"Remove it: rm {path}"
        )
    if not kept:
        yield ok("no module keeps statement texts")


def check_passwords(examined: Examined) -> Iterator[Outcome]:
    """Look for passwords in settings; they are in plain configuration files and backups."""
    if _PASSWORD.search(examined.settings.value("primary_conninfo")):
        yield warning(
            "primary_conninfo holds a password, in a plain configuration file that backups carry",
            "Put it into a passfile of the server's user outside the data directory "
            "(primary_conninfo: passfile=…), or authenticate with a certificate; change it.",
        )
    else:
        yield ok("none in primary_conninfo")


def _libraries(settings: Settings) -> set[str]:
    """Return the names of the modules that every session loads."""
    names = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")
    parts = ",".join(settings.value(name) for name in names).split(",")
    return {Path(part.strip().strip('"')).name.removesuffix(".so") for part in parts}
