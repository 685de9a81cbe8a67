"""repmgr on encrypted nodes: it reads pg_control itself, and decides by the state in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tde.postgres import run_program
from tde.postgres.server.os_user import run_as
from tde.postgres.server.reachable import reachable_binaries
from tests.tools.site import Site, beside, local_ssh, make_site, wait_for

PORTS = {1: 5431, 2: 5432}


def test_a_program_of_its_name_is_shown_the_true_state(
    binaries, keystore_factory, os_user_tmp_path, os_user
):
    """The program is a copy of pg_controldata, so that repmgr need not be there."""
    stock = reachable_binaries(binaries, os_user)
    control_data = stock.program("pg_controldata")
    installation = beside(stock, os_user_tmp_path / "bindir", "repmgr", control_data)
    with make_site(installation, keystore_factory("ks"), os_user_tmp_path, os_user) as site:
        data = site.init("data")
        assert site.state(data) == "in production"
        assert re.search(r"cluster state: +shut down\n", site.programs.run("repmgr", data))
        run = run_program(installation, "repmgr", [str(data)], os_user=os_user)
        assert re.search(r"cluster state: +shut down\n", run.stdout)


def test_what_it_starts_is_not_loaded_with_the_interposer(
    any_binaries, keystore_factory, os_user_tmp_path, os_user
):
    """It starts ssh, rsync and whatever its configuration names, which have no use for it."""
    shell = Path("/bin/sh").resolve()
    if "busybox" in shell.name:
        pytest.skip("this shell is another program under another name")
    stock = reachable_binaries(any_binaries, os_user)
    installation = beside(stock, os_user_tmp_path / "bindir", "repmgr", shell)
    with make_site(installation, keystore_factory("ks"), os_user_tmp_path, os_user) as site:
        shown = site.programs.run("repmgr", "-c", 'echo "preload: $LD_PRELOAD."')
        assert shown == "preload: .\n"


class Nodes:
    """Two nodes that repmgr manages, each a directory and a socket of this machine."""

    def __init__(self, site: Site) -> None:
        self.site = site
        local_ssh(site.directory)
        for number, port in PORTS.items():
            self._write_configuration(number, port)

    def data(self, number: int) -> Path:
        return self.site.directory / f"node{number}"

    def _write_configuration(self, number: int, port: int) -> None:
        programs, data = self.site.programs.directory, self.data(number)
        control = self.site.directory / f"control{number}"
        control.write_text(
            f"#!/bin/sh\nexec {programs}/pg_ctl -w -D {data} -l {data}.log -o '-p {port}' $1\n"
        )
        control.chmod(0o755)
        connection = f"host={self.site.directory} port={port} user=postgres dbname=postgres"
        self.configuration(number).write_text(
            f"node_id={number}\n"
            f"node_name='node{number}'\n"
            f"conninfo='{connection} connect_timeout=4'\n"
            f"data_directory='{data}'\n"
            f"pg_bindir='{programs}'\n"
            f"repmgr_bindir='{programs}'\n"
            f"service_start_command='{control} start'\n"
            f"service_stop_command='{programs}/pg_ctl -w -D {data} -m fast stop'\n"
            f"service_restart_command='{control} restart'\n"
        )

    def configuration(self, number: int) -> Path:
        return self.site.directory / f"repmgr{number}.conf"

    def repmgr(self, number: int, *command: str) -> str:
        return self.site.tool("repmgr", "-f", self.configuration(number), *command)

    def start(self, number: int) -> None:
        self.site.tool(self.site.directory / f"control{number}", "start")

    def clean(self, number: int) -> str:
        return self.repmgr(number, "node", "status", "--is-shutdown-cleanly")

    def rows(self, number: int) -> str:
        return self.site.sql("SELECT count(*) FROM t", PORTS[number])


@pytest.fixture
def nodes(site):
    """A primary and a standby, both registered."""
    if not (site.programs.directory / "repmgr").exists():
        pytest.skip("repmgr is not installed beside this PostgreSQL")
    nodes = Nodes(site)
    site.init("node1", "shared_preload_libraries = 'repmgr'")
    nodes.start(1)
    site.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)", PORTS[1])
    nodes.repmgr(1, "primary", "register")
    where = ("-h", str(site.directory), "-p", str(PORTS[1]), "-U", "postgres", "-d", "postgres")
    nodes.repmgr(2, *where, "standby", "clone", "--fast-checkpoint")
    nodes.start(2)
    nodes.repmgr(2, "standby", "register")
    return nodes


@pytest.mark.slow
def test_switchover_and_both_ways_to_rejoin(nodes):
    site = nodes.site
    shown = nodes.repmgr(2, "standby", "switchover")
    assert "SWITCHOVER has completed successfully" in shown
    assert nodes.clean(1).startswith("--state=UP")

    # Shut down in recovery, and shut down.
    site.stop(nodes.data(1))
    assert nodes.clean(1).startswith("--state=SHUTDOWN ")
    nodes.start(1)
    wait_for("the standby", lambda: "1" in site.sql("SELECT 1 FROM pg_stat_replication", 5432))
    site.stop(nodes.data(2))
    assert nodes.clean(2).startswith("--state=SHUTDOWN ")
    nodes.repmgr(1, "standby", "promote")
    primary = f"host={site.directory} port={PORTS[1]} user=postgres dbname=postgres"
    assert "NODE REJOIN successful" in nodes.repmgr(2, "node", "rejoin", "-d", primary)

    # A crash looks like one, and pg_rewind takes the node back.
    site.stop(nodes.data(1), "immediate")
    assert "--state=UNCLEAN_SHUTDOWN" in nodes.clean(1)
    nodes.repmgr(2, "standby", "promote")
    site.sql("INSERT INTO t SELECT 1", PORTS[2])
    primary = primary.replace(str(PORTS[1]), str(PORTS[2]))
    shown = nodes.repmgr(1, "node", "rejoin", "-d", primary, "--force-rewind")
    assert "NODE REJOIN successful" in shown
    wait_for("replay", lambda: nodes.rows(1) == "1001")


def test_it_knows_a_node_that_was_shut_down_from_one_that_crashed(site):
    if not (site.programs.directory / "repmgr").exists():
        pytest.skip("repmgr is not installed beside this PostgreSQL")
    nodes = Nodes(site)
    data = site.init("node1")
    assert nodes.clean(1).startswith("--state=SHUTDOWN ")
    nodes.start(1)
    site.stop(data, "immediate")
    assert nodes.clean(1).startswith("--state=UNCLEAN_SHUTDOWN")


def test_without_the_directory_it_takes_the_node_for_crashed(site, os_user):
    """So it refuses to go on, as PostgreSQL's own programs do."""
    repmgr = site.stock.bindir / "repmgr"
    if not repmgr.exists():
        pytest.skip("repmgr is not installed beside this PostgreSQL")
    nodes = Nodes(site)
    site.init("node1")
    run = run_as(
        os_user,
        [repmgr, "-f", nodes.configuration(1), "node", "status", "--is-shutdown-cleanly"],
    )
    assert run.stdout.startswith("--state=UNCLEAN_SHUTDOWN")
