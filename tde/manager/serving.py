"""Serving the application: on which address, for whom, until when."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import ssl
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tde.errors import TdeError
from tde.manager.app import create_app
from tde.manager.places import prepare_directory, secret_path
from tde.manager.security.password import has_password
from tde.manager.security.sessions import Role, Sessions
from tde.postgres.server.owned_files import write_owned_file

_MOST_CONNECTIONS = 200
_KEEP_ALIVE_SECONDS = 10
_SECONDS_TO_END = 3
_LOOK_SECONDS = 0.5
_SILENT_SECONDS = 10.0
_START_PAGE = "start.html"
_START = '<!doctype html><meta http-equiv="refresh" content="0; url={address}"><title>tde</title>'


@dataclass(frozen=True)
class Tls:
    """What browsers on other machines need.

    Attributes:
        certificate, key: files, as PEM.
        client_authority: certificates of browsers have to be of this one; None for a password.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True)
class Place:
    """Where the manager listens.

    Attributes:
        names: other names by which browsers reach it.
    """

    address: str
    port: int
    is_tls: bool = False
    names: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback

    @property
    def url(self) -> str:
        """What a browser is given."""
        host = self.names[0] if self.names else self.address
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the Host header may say."""
        own = f"[{self.address}]" if ":" in self.address else self.address
        names = (own, "127.0.0.1", "localhost", "[::1]") if self.is_loopback else (own,)
        found = tuple(f"{name}:{self.port}" for name in (*names, *self.names))
        # Browsers leave out the port that is usual.
        usual = 443 if self.is_tls else 80
        return (*found, *names, *self.names) if self.port == usual else found


def place_of(text: str, names: Sequence[str] = (), *, is_tls: bool = False) -> Place:
    """Return the place that ``ADDRESS:PORT`` names.

    Raises:
        TdeError: it is none, or others could reach it without TLS.
    """
    address, _, port = text.rpartition(":")
    address = address.strip("[]")
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
        number = int(port)
        if not 0 <= number < 65536:
            raise ValueError("a port is less than 65536")
    except ValueError as error:
        raise TdeError(f"{text} is no address with a port: {error}") from error
    if not is_loopback and not is_tls:
        raise TdeError(
            f"{address} can be reached from other machines, which takes TLS",
            remedy="Listen on 127.0.0.1, and reach it through ssh -L 8480:127.0.0.1:8480; or give "
            "--tls-cert and --tls-key.",
        )
    return Place(address, number, is_tls, tuple(names))


def _open(page: Path, address: str) -> None:
    """Open a browser on an address that nobody else may see, as arguments of programs can be."""
    write_owned_file(page, _START.format(address=address), None)
    webbrowser.open(page.as_uri())


class _Protocol(H11Protocol):
    """Gives up a connection on which nobody asks for anything: there are only so many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_SILENT_SECONDS, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Prints its address when somebody can use it, and another one when asked."""

    def __init__(self, config: uvicorn.Config, place: Place, tell: Callable[[Place], None]) -> None:
        super().__init__(config)
        self._place = place
        self._tell = tell

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup()
        if not self.started:
            return
        found = self.servers[0].sockets[0].getsockname()
        place = replace(self._place, address=found[0], port=found[1])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell, place)
        self._tell(place)

    async def main_loop(self) -> None:
        """Look seldom whether to end: ten times a second, as uvicorn does, is work all day."""
        while not await self.on_tick(0):
            await asyncio.sleep(_LOOK_SECONDS)


def serve(
    place: Place,
    directory: Path,
    *,
    tls: Tls | None,
    read_only: bool,
    tell: Callable[[str], None],
    open_browser: bool,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        directory: where it keeps what survives it.
        tell: is told the address.

    Raises:
        TdeError: the address is in use.
        OSError: the directory cannot be made.
    """
    knows_browsers = tls is not None and tls.client_authority is not None
    if not (place.is_loopback or has_password(directory) or knows_browsers):
        raise TdeError(
            "browsers on other machines have to prove who they are",
            remedy="Set a password: tde manager --set-password. Or give --client-ca.",
        )
    prepare_directory(directory)
    base = secret_path(directory)
    role = Role.READER if read_only else Role.ADMINISTRATOR
    sessions = Sessions()
    hosts: set[str] = set(place.hosts)
    app = create_app(directory, sessions, hosts, base, is_tls=place.is_tls, role=role)

    def told(at: Place) -> None:
        hosts.update(at.hosts)
        address = f"{at.url}{base}/login?token={sessions.new_token(role)}"
        tell(f"Open {address}")
        if open_browser:
            # A browser may go on until it is closed.
            Thread(target=_open, args=(directory / _START_PAGE, address), daemon=True).start()

    authority = None if tls is None else tls.client_authority
    config = uvicorn.Config(
        app,
        host=place.address,
        port=place.port,
        log_level="warning",
        access_log=False,  # Addresses have tokens in them.
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SECONDS_TO_END,
        lifespan="off",
        http=_Protocol,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
        ssl_ca_certs=None if authority is None else str(authority),
        ssl_cert_reqs=ssl.CERT_NONE if authority is None else ssl.CERT_REQUIRED,
    )
    try:
        _Server(config, place, told).run()
    except OSError as error:  # Of TLS: ssl.SSLError is one.
        raise TdeError(f"the certificate or its key cannot be used: {error}") from error
    except SystemExit as error:
        raise TdeError(
            f"nobody can be served at {place.url}: the address is in use, or may not be used",
            remedy="Name another one with --listen.",
        ) from error
