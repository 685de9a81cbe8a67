"""What befalls the pair while a client writes, and how it comes back from that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tests.ha_lab.counting import Load, writing
from tests.ha_lab.forgetful import forgetful_disk
from tests.ha_lab.lab import SERVICE_ADDRESS, Mode, wait_until
from tests.ha_lab.node import Node
from tests.ha_lab.pacemaker import Pacemaker
from tests.ha_lab.patroni import Patroni
from tests.ha_lab.server import KEYSTORE
from tests.power_loss.recording import why_unavailable

_LIMIT = 120.0
_SUM = "SELECT count(*), coalesce(sum(hashtext(w::text)::bigint), 0) FROM written w"


@dataclass(frozen=True)
class Event:
    """One event, and what came of it.

    Attributes:
        outage_seconds: how long nobody could write.
        lost: rows that had been acknowledged.
        rejoin_seconds: until the pair was synchronous again.
        is_equal: whether both nodes had the same rows in the end.
    """

    manager: str
    mode: str
    kind: str
    outage_seconds: float
    acknowledged: int
    lost: int
    rejoin_seconds: float
    is_equal: bool

    def as_json(self) -> dict[str, Any]:
        """Return the document that results/ha.json keeps."""
        return asdict(self)


class PacemakerEvents:
    """Events of a pair under Pacemaker."""

    def __init__(self, pair: Pacemaker) -> None:
        self._pair = pair
        self.kinds: dict[str, Callable[[], Event]] = {
            "kill -9": lambda: self._fail("kill -9", lambda node: node.kill_server(), "rewind"),
            "power-off": lambda: self._fail("power-off", lambda node: node.power_off(), "rewind"),
            "switchover": lambda: self._fail("switchover", self._put_aside, "nothing"),
            "cut network": self._cut_network,
            "keystore lost": self._lose_keystore,
        }
        if why_unavailable() is None:
            self.kinds["power-off, cache lost"] = self._lose_cache

    def _put_aside(self, node: Node) -> None:
        node.run("crm", "node", "standby", node.name)

    def _primary(self) -> Node:
        wait_until(lambda: self._pair.primary() is not None, 60, "a primary")
        found = self._pair.primary()
        assert found is not None
        return found

    def _fail(self, kind: str, happen: Callable[[Node], None], how: str) -> Event:
        def come_back(old: Node, was_off: bool) -> None:
            if was_off:
                self._wait_for_cluster(old)
            self._pair.rejoin(old, how)

        return _take_over(self._pair, self._primary(), kind, happen, come_back)

    def _lose_cache(self) -> Event:
        """Pull the plug of a primary whose disk forgets what was not synced.

        The standby gets such a disk, and becomes the primary, before anything befalls it.
        """
        old = self._primary()
        new = old.other
        self._put_aside(new)
        wait_until(lambda: not self._pair.runs_on(new), 60, f"no server on {new.name}")
        new.power_off()
        with forgetful_disk(new) as disk:
            self._boot(new)
            self._pair.rejoin(new, "nothing")
            self._put_aside(old)
            wait_until(lambda: self._pair.primary() == new, 60, f"{new.name} as the primary")
            self._pair.rejoin(old, "nothing")

            def come_back(node: Node, was_off: bool) -> None:
                self._wait_for_cluster(node)
                self._pair.rejoin(node, "rewind")

            seed = f"{time.time():.3f}"
            kind = "power-off, cache lost"
            return _take_over(
                *(self._pair, new, kind, lambda node: node.power_off(), come_back),
                before_boot=lambda: print("    seed", seed, disk.lose_cache(seed)),
            )

    def _boot(self, node: Node) -> None:
        node.power_on()
        self._pair.join(node)
        self._wait_for_cluster(node)

    def _wait_for_cluster(self, node: Node) -> None:
        wait_until(lambda: self._pair.has_joined(node), 60, f"{node.name} in the cluster")

    def _cut_network(self) -> Event:
        """Cut the standby's cable for replication: commits go on when it is given up."""
        primary = self._primary()
        standby = primary.other
        with writing(primary.lab) as load:
            standby.cut("rep", is_cut=True)
            time.sleep(2)
            load.wait_for_rows(20, _LIMIT)
            rows_begin = time.monotonic()
            standby.cut("rep", is_cut=False)
            self._wait_for_sync(primary, standby)
        rows = _rows(primary, load)
        return _event(self._pair, "cut network", load, rows, rows_begin, primary)

    def _wait_for_sync(self, primary: Node, standby: Node) -> None:
        """Wait until the server and then the agent say so, which looks every few seconds."""
        query = "SELECT sync_state FROM pg_stat_replication"
        try:
            wait_until(lambda: primary.query(query) == "sync", 60, "synchronous")
            wait_until(lambda: self._pair.state(primary, standby) == "HS:sync", 30, "in sync")
        except TimeoutError:
            self._pair.rejoin(standby, "base backup")

    def _lose_keystore(self) -> Event:
        """Take away what opens the standby's keystore, then kill the primary.

        The standby must not be promoted: it could not start again. The primary comes back.
        """
        primary = self._primary()
        standby = primary.other
        secret, aside = KEYSTORE / "auto-open.key", KEYSTORE.parent / "auto-open.aside"
        standby.run("mv", secret, aside)
        wait_until(lambda: self._pair.score(primary, standby) == "0", 90, "score 0")
        with writing(primary.lab) as load:
            primary.kill_server()
            end = time.monotonic() + 15
            while time.monotonic() < end:
                answer = standby.query("SELECT pg_is_in_recovery()")
                assert answer == "t", f"a standby without its secret: in recovery {answer!r}"
                time.sleep(0.5)
            begin = time.monotonic()
            standby.run("mv", aside, secret)
            wait_until(lambda: self._pair.score(primary, standby) == "100", 90, "score 100")
            _wait_for_connection(load)
        new = self._primary()
        rows = _rows(new, load)
        self._pair.rejoin(new.other, "rewind")
        return _event(self._pair, "keystore lost", load, rows, begin, new)


class PatroniEvents:
    """Events of a pair under Patroni."""

    def __init__(self, pair: Patroni) -> None:
        self._pair = pair
        self.kinds: dict[str, Callable[[], Event]] = {
            "kill -9": lambda: self._fail("kill -9", lambda node: node.kill_server()),
            "power-off": lambda: self._fail("power-off", lambda node: node.power_off()),
            "switchover": lambda: self._fail("switchover", lambda _: self._pair.switch()),
        }

    def _fail(self, kind: str, happen: Callable[[Node], None]) -> Event:
        old = self._pair.primary()
        assert old is not None
        address = f"{self._pair.address} target_session_attrs=read-write"

        def come_back(_old: Node, _was_off: bool) -> None:
            self._pair.wait_until_whole()

        return _take_over(self._pair, old, kind, happen, come_back, address)


def _take_over(
    pair: Pacemaker | Patroni,
    old: Node,
    kind: str,
    happen: Callable[[Node], None],
    come_back: Callable[[Node, bool], None],
    address: str = SERVICE_ADDRESS,
    before_boot: Callable[[], object] = lambda: None,
) -> Event:
    """Let something befall the primary under load, and the other node take its place.

    Args:
        come_back: makes the old primary a standby; it is told whether the node was off.
        address: where clients look for the primary.
        before_boot: what befalls a node that is off, once the other one serves.
    """
    new = old.other
    with writing(old.lab, address) as load:
        happen(old)
        _wait_for_connection(load)
    rows = _rows(new, load)
    begin = time.monotonic()
    was_off = not old.is_up
    if was_off:
        before_boot()
        old.power_on()
        pair.join(old)
    come_back(old, was_off)
    return _event(pair, kind, load, rows, begin, new)


def _event(
    pair: Pacemaker | Patroni, kind: str, load: Load, rows: set[int], begin: float, new: Node
) -> Event:
    """Return what came of an event.

    Args:
        rows: that the new primary had when clients wrote again.
        begin: when the other node began to come back.
    """
    count = load.count(rows)
    return Event(
        manager=type(pair).__name__,
        mode=pair.servers.mode.value,
        kind=kind,
        outage_seconds=count.outage_seconds,
        acknowledged=count.acknowledged,
        lost=count.lost,
        rejoin_seconds=round(time.monotonic() - begin, 1),
        is_equal=_are_equal(new),
    )


def _wait_for_connection(load: Load) -> None:
    """Wait until a client has found the new primary, and has written for a while."""

    def is_back() -> bool:
        return sum(one["kind"] == "connected" for one in load.notes()) > 1

    wait_until(is_back, _LIMIT, "a client that writes again")
    load.wait_for_rows(50, 60)


def _rows(node: Node, load: Load) -> set[int]:
    text = node.query(f"SELECT id FROM written WHERE id >= {load.first}")
    return {int(line) for line in text.splitlines()}


def _are_equal(primary: Node) -> bool:
    """Whether the standby has the same rows, which it may still be replaying."""

    def is_same() -> bool:
        found = primary.query(_SUM)
        return bool(found) and bool(found == primary.other.query(_SUM))

    try:
        wait_until(is_same, 30, "the same rows on both nodes")
    except TimeoutError:
        return False
    return True


def events_of(pair: Pacemaker | Patroni) -> dict[str, Callable[[], Event]]:
    """Return the events that a pair can go through, by their names."""
    events = PacemakerEvents(pair) if isinstance(pair, Pacemaker) else PatroniEvents(pair)
    kinds = dict(events.kinds)
    if pair.servers.mode is Mode.STOCK:
        kinds.pop("keystore lost", None)
    return kinds
