"""``tde pg audit`` as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.audit.prepared import PAGE, TEXT, Prepared, write_at
from tests.keystore.cheap_passphrase import PASSPHRASE


def run_cli(copy: Prepared, *arguments: str, exit_code: int) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TDE_"))}
    result = subprocess.run(
        [
            Path(sys.executable).with_name("tde"),
            *("pg", "audit", "-D", str(copy.root), "--keystore", str(copy.keystore.path)),
            *("--passphrase-fd", "0", "--bindir", str(copy.cluster.binaries.bindir), *arguments),
        ],
        input=PASSPHRASE.decode(),
        capture_output=True,
        text=True,
        env={**environment, "COLUMNS": "200"},
        timeout=120,
    )
    assert result.returncode == exit_code, result.stdout + result.stderr
    return result


def test_the_command_reports_a_clean_cluster(copy):
    arguments = ["--archive", str(copy.archive), "--backup", str(copy.backup)]
    shown = run_cli(copy, *arguments, "--canary", TEXT, exit_code=0).stdout
    assert "Everything that should be ciphertext is. The canary is in no file." in shown
    row = next(line for line in shown.splitlines() if line.startswith("pg_default"))
    assert "AES-256-XTS" in row
    assert row.rstrip().endswith("encrypted")
    assert f"backup {copy.backup}" in shown
    assert "global/pg_control: positions" in shown
    document = json.loads(run_cli(copy, "--json", "--jobs", "1", exit_code=0).stdout)
    assert document["clean"] is True
    assert {line["algorithm"] for line in document["lines"]} >= {"AES-256-XTS", "AES-128-XTS"}


def test_the_command_exits_with_1_and_names_file_and_remedy(copy):
    path = copy.root / copy.heap
    write_at(path, 60 * PAGE, copy.decrypted(path, copy.heap)[60 * PAGE : 61 * PAGE])
    shown = run_cli(copy, exit_code=1).stdout
    assert "1 FINDING" in shown
    assert f"{path}: block 60" in shown
    assert "VACUUM FULL" in shown
    finding = json.loads(run_cli(copy, "--json", exit_code=1).stdout)["findings"][0]
    assert (finding["kind"], finding["block"]) == ("plaintext page", 60)
    assert finding["file"] == str(path)
    assert "1 to 512" in run_cli(copy, "--canary", "", exit_code=2).stderr
