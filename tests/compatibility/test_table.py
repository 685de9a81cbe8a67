"""The table of docs/compatibility.md says what came of the runs, also what failed."""

from __future__ import annotations

from tests.compatibility.columns import COLUMNS, UPGRADES
from tests.compatibility.run import Cell
from tests.compatibility.table import BEGIN, END, PAGE, table


def upgrade(pair: str, mode: str) -> str:
    return f"tests/server/test_x.py::test_rows[{pair}-{mode}]"


def rows(cells: list[Cell]) -> list[list[str]]:
    lines = [line for line in table(cells).splitlines() if line.startswith("|")]
    return [[word.strip() for word in line.strip("|").split("|")] for line in lines]


def test_a_row_says_what_passed_and_what_did_not() -> None:
    cells = [
        Cell("tests", 15, "15.20", "Debian 12", passed=["a"] * 1200),
        Cell("crashes", 15, "15.20", "Debian 12", passed=["a"], failed=["b", "c"]),
        Cell("failover", 15, "15.20", "Debian 12", skipped=["a: not there"]),
        Cell("extensions", 15, "15.20", "Debian 12", passed=["a"], extensions=["hll", "rum"]),
        Cell("tests", 16, "16.14", "wheel", passed=["a"]),
        Cell(
            "upgrades",
            0,
            "15.20, 16.14",
            "",
            passed=[upgrade("15-16", "copy"), upgrade("15-16", "copy-file-range")],
            failed=[upgrade("15-17", "link")],
        ),
    ]
    head, _, first, second = rows(cells)
    assert head[2:] == [column.title for column in (*COLUMNS, UPGRADES)]
    said = dict(zip(head, first, strict=True))
    assert (said["PostgreSQL"], said["from"]) == ("15.20", "Debian 12")
    assert said["tests on servers"] == "1,200"
    assert said["crash mix"] == "1, **2 failed**"
    assert said["Patroni, repmgr"] == "–"
    assert said["extensions"] == "2"
    assert said["pg_upgrade to"] == "16 (2), **not 17 by link**"
    assert second[:3] == ["16.14", "wheel", "1"]
    assert "* 15: hll, rum" in table(cells)


def test_the_page_has_a_table_of_all_columns() -> None:
    page = PAGE.read_text(encoding="utf-8")
    made = page.partition(BEGIN)[2].partition(END)[0]
    for column in (*COLUMNS, UPGRADES):
        assert column.title in made
    for major in range(15, 20):
        assert f"| {major}." in made or f"| {major}rc" in made
