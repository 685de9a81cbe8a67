"""Run PyKMIP's own server: ``python kmip_server.py DIRECTORY`` with certificates in it.

It listens on a port of the kernel's choice, which it writes to ``DIRECTORY/port``.
"""

from __future__ import annotations

import socket
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

from kmip.services.server import KmipServer  # noqa: E402


def main(directory: Path) -> None:
    """Serve until the process is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = KmipServer(
        hostname="127.0.0.1",
        port=port,
        certificate_path=str(directory / "server.pem"),
        key_path=str(directory / "server.key"),
        ca_path=str(directory / "ca.pem"),
        auth_suite="TLS1.2",
        config_path=None,
        log_path=str(directory / "server.log"),
        policy_path=str(directory),
        enable_tls_client_auth=True,
        logging_level="DEBUG",
        database_path=str(directory / "database"),
    )
    with server:
        (directory / "port.new").write_text(str(port))
        (directory / "port.new").rename(directory / "port")
        server.serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
