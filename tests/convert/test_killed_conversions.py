"""Real processes and real signals: kill -9 at a random moment, and the next run finishes."""

from __future__ import annotations

import pytest

from tests.convert.conversions import content, encrypted_form, without_ours
from tests.convert.interruptions import Killer, is_finished


def kill_and_resume(original, copy, keystore_factory, kills: int) -> None:
    """Convert to and fro until there were that many kills; every result is compared."""
    before = content(copy.data_directory)
    total = cycle = 0
    while total < kills:
        keystore = keystore_factory(f"keystore-{cycle}")
        cycle += 1
        killer = Killer(copy, keystore.path, cycle)
        for verb in ("encrypt", "decrypt"):
            here = 0
            # Several in one conversion, but not so many that it never comes to its end.
            while here < 5 and total + killer.kills < kills:
                if killer.run(verb, kill=True) or is_finished(copy, verb):
                    break
                here += 1
            if not is_finished(copy, verb):
                assert killer.run(verb, kill=False)
            wanted = encrypted_form(before, keystore) if verb == "encrypt" else before
            found = content(copy.data_directory)
            assert without_ours(found) == without_ours(wanted), f"{verb}, {total} kills"
        total += killer.kills
    assert content(copy.data_directory) == before


def test_a_killed_conversion_is_finished(original, copy, keystore_factory):
    kill_and_resume(original, copy, keystore_factory, 6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_conversion_killed_fifty_times_is_finished(original, copy, keystore_factory):
    kill_and_resume(original, copy, keystore_factory, 50)
    # And it is a cluster still.
    copy.start(None, options={"listen_addresses": ""})
    copy.stop()
