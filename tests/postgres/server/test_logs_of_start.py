"""What a failed start shows of the server's logs, wherever they are."""

from __future__ import annotations

import pytest

from tde.errors import ServerStartError

COLLECTOR = {"logging_collector": "on", "unix_socket_directories": "/nowhere/at/all"}
REASON = "/nowhere/at/all"


@pytest.mark.parametrize(("destination", "suffix"), [("stderr", "log"), ("csvlog", "csv")])
def test_the_collectors_log_is_shown_and_named(
    destination, suffix, encrypted_cluster_factory, any_binaries
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    options = {**COLLECTOR, "log_destination": destination, "log_filename": "same"}
    for attempt in (1, 2):
        with pytest.raises(ServerStartError) as failed:
            made.start(options)
        message = str(failed.value)
        # Of the second attempt alone, although both write to the same file.
        assert message.count("could not create lock file") == 1, f"{attempt}: {message}"
        log = made.data_directory / "log" / ("same" if suffix == "log" else "same.csv")
        assert f"Last lines of {log}:" in message
        assert failed.value.remedy == f"The whole log is in {log}."


def test_an_earlier_log_of_the_collector_is_not_shown(encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory(any_binaries, start=False)
    with pytest.raises(ServerStartError):
        made.start(COLLECTOR)
    with pytest.raises(ServerStartError) as failed:
        made.start({"unix_socket_directories": "/another/place"})
    assert "/another/place" in str(failed.value)
    assert REASON not in str(failed.value)
    assert failed.value.remedy == f"The whole log is in {made.cluster.default_log}."


def test_a_link_in_the_place_of_the_list_is_not_followed(encrypted_cluster_factory, any_binaries):
    """The server's user could have root read a file that only root may."""
    made = encrypted_cluster_factory(any_binaries, start=False)
    listed = made.data_directory / "list"
    listed.write_text("stderr /etc/passwd\n")
    (made.data_directory / "current_logfiles").symlink_to(listed)
    with pytest.raises(ServerStartError) as failed:
        made.start({"unix_socket_directories": "/another/place"})
    assert "passwd" not in str(failed.value)
