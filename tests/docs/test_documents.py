"""Links, commands, findings and messages that the documents name exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer
from tde_bench import cli as bench_cli

from tde.audit.report import FindingKind
from tde.cli import app as tde_cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    path
    for folder in ("tde", "bench", "c_ext", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".c", ".h")
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"`([^`]+)`")
# A command line of ours, after assignments to variables of its environment.
COMMAND = re.compile(r"(?:\w+=\S+ )*(tde|tde-bench) [a-z]")
SHELL_OPERATORS = re.compile(r"[;|&<>()]+")
LONGEST_LINE = 120
LONGEST_CELL = 125


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    lines = without_fences(page.read_text(encoding="utf-8")).splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


def code_lines(text: str) -> list[str]:
    """Return the lines of indented and fenced blocks; one that ends in a backslash goes on."""
    lines = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    return "\n".join(lines).replace("\\\n", " ").splitlines()


# Links.


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        found.append(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    repeated = {f"{name}-{n}" for name in found for n in range(1, found.count(name))}
    return {*found, *repeated}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"\w+:", target):
            continue  # An address on the web.
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_list_of_pages() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = {target.partition("#")[0] for target in LINK.findall(index)}
    others = {page.name for page in PAGES if page.parent.name == "docs"}
    assert others - listed == {"README.md"}


def test_pages_that_the_sources_name_exist() -> None:
    named = {
        (page_id(source), name)
        for source in SOURCES
        for name in re.findall(r"docs/[\w-]+\.md", source.read_text(encoding="utf-8"))
    }
    assert named
    assert {(source, name) for source, name in named if not (ROOT / name).exists()} == set()


@every_page
def test_source_files_that_the_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:bench|c_ext|docs|tde|tests)/[\w./-]+)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()


# Commands.


def command_words(line: str) -> Iterator[list[str]]:
    """Yield the words of every command of ours in a line for the shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not SHELL_OPERATORS.fullmatch(word):
            words.append(word)
            continue
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        if words and words[0] in ("tde", "tde-bench"):
            yield words
        words = []


def documented_commands(page: Path) -> list[tuple[bool, list[str]]]:
    """Return commands as lists of words, and whether each is complete: a line of a block."""
    found = []
    for line in code_lines(page.read_text(encoding="utf-8")):
        if COMMAND.match(line):
            found += [(True, words) for words in command_words(line)]
    for code in INLINE_CODE.findall(prose(page)):
        text = " ".join(code.split())
        if COMMAND.match(text):
            found += [(False, words) for words in command_words(text)]
    return found


@lru_cache
def root_command(program: str) -> Any:
    return typer.main.get_command({"tde": tde_cli.app, "tde-bench": bench_cli.app}[program])


def complaint(words: list[str], complete: bool) -> str:
    """Return why a command would be refused, or an empty string; nothing is executed."""
    command = root_command(words[0])
    context = command.context_class(command, info_name=words[0])
    rest = words[1:]
    try:
        while rest and hasattr(command, "commands"):
            name, command, rest = command.resolve_command(context, rest)
            context = command.context_class(command, parent=context, info_name=name)
        if hasattr(command, "commands"):
            return ""
        if complete:
            # With types, choices and required arguments, as when the command is run.
            command.make_context(context.info_name, list(rest), parent=context.parent)
        else:
            command.make_parser(context).parse_args(list(rest))
    except Exception as error:  # The parser's class depends on the release of typer.
        return f"{shlex.join(words)}: {getattr(error, 'message', error)!s}"
    return ""


@every_page
def test_commands_and_options_exist(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("PGDATA", "TDE_KEYSTORE"):
        monkeypatch.delenv(variable, raising=False)
    commands = documented_commands(page)
    for name in {word for _, words in commands for word in words if word.endswith(".json")}:
        if not Path(name).is_absolute():
            Path(name).touch()  # Some options want a file that exists.
    refused = [complaint(words, complete) for complete, words in commands]
    assert [text for text in refused if text] == []


def test_commands_are_found_and_refused() -> None:
    """The test above would also pass if it found no command, or refused none."""
    found = [words for page in PAGES for _, words in documented_commands(page)]
    assert {"audit", "doctor", "encrypt", "exec"} <= {w[2] for w in found if w[:2] == ["tde", "pg"]}
    assert complaint(["tde", "pg", "status", "-D", "x"], True) == ""
    assert complaint(["tde", "pg", "status"], False) == ""
    for words in (
        ["tde", "pg", "status"],
        ["tde", "pg", "proof", "-D", "x"],
        ["tde", "pg", "status", "-D", "x", "--proof"],
        ["tde", "pg", "stop", "-D", "x", "-m", "slow"],
        ["tde-bench", "oltp", "--rounds", "many"],
    ):
        assert complaint(words, True), words


# Findings and messages.


def quoted_messages(page: str) -> list[str]:
    """Return the code in the first cells of the tables of messages."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\| (?:message|in the standby's log) \|.*?(?:\n\n|\Z)", text, re.M | re.S)
    rows = [row.split("|")[1] for table in tables for row in table.splitlines()[2:] if row]
    return [INLINE_CODE.findall(cell)[0] for cell in rows]


@pytest.mark.parametrize("page", ["keystore.md", "standbys.md", "troubleshooting.md"])
def test_messages_are_those_of_the_product(page: str) -> None:
    ours = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("tde", "c_ext")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in ours)
    text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    # Literals that the compiler would join.
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    literals = "\n".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined))

    servers = {"could not locate a valid checkpoint record", "Required key not available"}
    messages = quoted_messages(page)
    assert messages
    assert [m for m in messages if m not in literals and m not in servers] == []


def test_every_finding_of_the_audit_is_documented() -> None:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| finding \|.*?\n\n", text, flags=re.M | re.S)
    cells = [row.split("|")[1].strip() for row in table.splitlines()[2:] if row]
    assert {kind for cell in cells for kind in cell.split(", ")} == {k.value for k in FindingKind}


# Form.


@every_page
def test_lines_and_cells_are_short(page: Path) -> None:
    lines = without_fences(page.read_text(encoding="utf-8")).splitlines()
    long = [line for line in lines if len(line) > LONGEST_LINE and not line.startswith("|")]
    long += [
        cell
        for line in lines
        if line.startswith("|")
        for cell in re.split(r"(?<!\\)\|", line)
        if len(cell.strip()) > LONGEST_CELL
    ]
    assert long == []
