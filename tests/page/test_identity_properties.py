"""The C parser of file names and the tweaks against models written in Python.

The model of the parser exists only here: the product has one parser, the C one.
"""

from __future__ import annotations

import re

from hypothesis import example, given, settings, strategies as st

from tde import FileIdentity, Fork, RelationIdentity, WalIdentity, _core
from tde.page import reference

MAX = 2**32 - 1
PLAIN = (0, 0, 0, 0, 0, 0, 0, None)

NUMBER = r"(?:0|[1-9][0-9]*)"
WAL = re.compile(
    r"(?P<wal>[0-9A-F]{24})(?:\.partial)?|archtemp\.(?P<temporary>[0-9A-F]{24})"
    r"\.(?![0-9A-F]{8}\.backup(?:\.|\Z)).*",
    re.DOTALL,
)
RELATION = re.compile(
    rf"(?:t(?P<backend>{NUMBER})_)?(?P<number>{NUMBER})(?:_(?P<fork>fsm|vm|init))?"
    r"(?:\.(?P<segment>[1-9][0-9]*))?"
)
TABLESPACE = rf"pg_tblspc/(?P<oid>{NUMBER})/PG_[^/]*"
DIRECTORY = re.compile(
    rf"(?:.*/)?(?:(?P<default>base)/(?P<db>{NUMBER})|(?P<shared>global)"
    rf"|{TABLESPACE}/(?P<tsdb>{NUMBER}))",
    re.DOTALL,
)
TEMPORARY_FILE = re.compile(
    rf"(?:.*/)?(?P<name>(?:base|global|{TABLESPACE})/pgsql_tmp/(?:[^/]+/)?[^/]+)", re.DOTALL
)
OTHER_EPHEMERAL = re.compile(
    r"(?:.*/)?(?P<name>pg_wal/xlogtemp\.[^/]*|pg_notify/[^/]+|pg_replslot/[^/]+/[^/]*\.spill)",
    re.DOTALL,
)

Parsed = tuple[int, int, int, int, int, int, int, "str | None"]


def all_fit(*numbers: str | None) -> bool:
    return all(number is None or int(number) <= MAX for number in numbers)


def model_relation(directory: str, file: str) -> Parsed | None:
    name, place = RELATION.fullmatch(file), DIRECTORY.fullmatch(directory)
    if name is None or place is None or not all_fit(*name.group("backend", "number", "segment")):
        return None
    segment = int(name["segment"] or 0)
    if name["number"] == "0" or segment > 32767 or not all_fit(*place.group("db", "oid", "tsdb")):
        return None
    tablespace = 1664 if place["shared"] else 1663 if place["default"] else int(place["oid"])
    fork = ["", "fsm", "vm", "init"].index(name["fork"] or "")
    file_class = 1 if name["backend"] is None else 3
    database = int(place["db"] or place["tsdb"] or 0)
    return (
        file_class, tablespace, database, int(name["number"]), 0, fork, segment * 131072, None
    )  # fmt: skip


def model(path: str) -> Parsed:
    """Classify a path without empty and "." components."""
    directory, _, file = path.rpartition("/")
    segment = WAL.fullmatch(file)
    if segment is not None:
        digits = segment["wal"] or segment["temporary"]
        words = [int(digits[at : at + 8], 16) for at in (0, 8, 16)]
        return (2, 0, words[0], words[1], words[2], 0, 0, None)
    relation = model_relation(directory, file)
    if relation is not None:
        return relation
    temporary = TEMPORARY_FILE.fullmatch(path)
    if temporary is not None and all_fit(temporary["oid"]):
        return (4, 0, 0, 0, 0, 0, 0, temporary["name"])
    other = OTHER_EPHEMERAL.fullmatch(path)
    return PLAIN if other is None else (4, 0, 0, 0, 0, 0, 0, other["name"])


numbers = st.one_of(
    st.integers(0, MAX + 2).map(str),
    st.sampled_from(["0", "1", "01", "", "5", "16384", str(MAX), str(MAX + 1), "x", "-1"]),
)
forks = st.sampled_from(["", "_fsm", "_vm", "_init", "_", "_main", "_fsm_vm"])
suffixes = st.one_of(
    st.sampled_from(["", ".", ".0", ".1", ".01", ".32767", ".32768", ".1.1", "x"]),
    st.integers(0, 40000).map(lambda n: f".{n}"),
)
relation_files = st.builds(
    lambda temporary, number, fork, suffix: temporary + number + fork + suffix,
    st.one_of(st.just(""), numbers.map(lambda n: f"t{n}_"), st.sampled_from(["t", "t_", "T1_"])),
    numbers,
    forks,
    suffixes,
)
wal_files = st.builds(
    lambda head, digits, tail: head + digits + tail,
    st.sampled_from(["", "", "archtemp.", "x", "archtemp"]),
    st.text("0123456789ABCDEFabg", min_size=22, max_size=26),
    st.sampled_from(
        [
            "",
            "",
            ".partial",
            ".",
            ".1.2",
            ".ready",
            ".00000028.backup",
            ".history",
            ".00000028.backup.1",
        ]
    ),
)
ephemeral_files = st.sampled_from(
    ["pgsql_tmp1.0", "pgsql_tmp1.0.fileset", "xlogtemp.1", "xlogtemp", "x.spill", "x.spill2"]
)
names = st.one_of(
    relation_files,
    wal_files,
    ephemeral_files,
    numbers,
    st.text(st.characters(codec="ascii", exclude_characters="/\0"), max_size=12),
).filter(lambda name: name not in ("", "."))
directories = st.one_of(
    st.sampled_from(
        ["base", "global", "pg_tblspc", "pg_wal", "pgsql_tmp", "pg_notify", "pg_replslot"]
    ),
    st.sampled_from(["PG_15_202209061", "PG_", "xPG_15", "..", "slot", "data", "basebase"]),
    numbers.filter(bool),
)
paths = st.one_of(
    st.lists(directories, max_size=6).flatmap(
        lambda parents: names.map(lambda name: "/".join([*parents, name]))
    ),
    # Whole directories that PostgreSQL has, so that every class is common.
    st.tuples(
        st.sampled_from(["", "/", "/var/lib/data/", "../"]),
        st.sampled_from(["base/{}/", "global/", "pg_tblspc/{}/PG_16_202307071/{}/"]),
        numbers,
        numbers,
        names,
    ).map(lambda t: t[0] + t[1].format(t[2] or "0", t[3] or "0") + t[4]),
    st.tuples(
        st.sampled_from(["base/pgsql_tmp/", "pg_tblspc/7/PG_1/pgsql_tmp/", "pg_wal/"]),
        st.sampled_from(["", "pgsql_tmp1.0.fileset/"]),
        names,
    ).map("".join),
)


@settings(max_examples=1000)
@given(paths)
@example("base/5/16384.")
@example("base/5/16384.0")
@example("pg_replslot/0/.spill")
@example("pgsql_tmp/pgsql_tmp/x")
@example("/pgsql_tmp/pg_notify/0000")
@example("base/pgsql_tmp/pgsql_tmp/x")
def test_the_parser_agrees_with_the_model(path: str) -> None:
    assert _core.parse_path(path) == model(path)


@given(paths, st.sampled_from(["./{}", "/{}", "data/{}", "/a/b/c/d/e/f/g/h/{}"]))
def test_what_stands_in_front_of_the_data_directory_does_not_matter(path: str, place: str) -> None:
    # A path that is not below one of PostgreSQL's directories may become so.
    if model(path) != PLAIN:
        assert _core.parse_path(place.format(path.lstrip("/"))) == _core.parse_path(path)


@given(paths, st.integers(0, 5), st.sampled_from(["//", "/./", "///", "/././"]))
def test_empty_and_dot_components_name_nothing(path: str, at: int, separator: str) -> None:
    spelled = path.replace("/", separator, at)
    assert _core.parse_path(spelled)[:7] == _core.parse_path(path)[:7]


@given(st.binary(max_size=80).filter(lambda path: b"\0" not in path))
def test_arbitrary_bytes_never_break_the_parser(path: bytes) -> None:
    assert _core.parse_path(path)[0] in range(5)


relations = st.builds(
    RelationIdentity,
    st.integers(0, MAX),
    st.integers(1, MAX),
    st.sampled_from(Fork),
    st.booleans(),
)
segments = st.builds(WalIdentity, *[st.integers(0, MAX)] * 3)


@given(st.integers(0, MAX), relations, st.integers(0, 32767))
def test_names_that_are_built_parse_back(oid: int, relation: RelationIdentity, file: int) -> None:
    name = f"t7_{relation.relfilenumber}" if relation.temporary else f"{relation.relfilenumber}"
    name += "" if relation.fork is Fork.MAIN else f"_{relation.fork.name.lower()}"
    name += f".{file}" if file else ""
    parsed = FileIdentity.from_path(f"pg_tblspc/{oid}/PG_18_202506291/{relation.database}/{name}")
    assert parsed.identity == relation
    assert parsed.first_block == file * 131072
    assert parsed.tablespace == oid


@given(segments)
def test_segment_names_that_are_built_parse_back(segment: WalIdentity) -> None:
    name = f"{segment.timeline:08X}{segment.log:08X}{segment.segment:08X}"
    assert FileIdentity.from_path(f"pg_wal/{name}").identity == segment


@given(st.one_of(relations, segments), st.integers(0, MAX))
def test_tweaks_agree_with_the_reference(
    identity: RelationIdentity | WalIdentity, block: int
) -> None:
    block %= 2**24 if isinstance(identity, WalIdentity) else 2**32
    assert _core.tweak(identity.to_core(), block) == reference.tweak(identity, block)
