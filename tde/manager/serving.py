"""Serving the application: on which address, for whom, until when."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from tde.errors import TdeError
from tde.manager.app import create_app
from tde.manager.places import default_directory
from tde.manager.security.sessions import Role, Sessions

_MOST_CONNECTIONS = 200
_KEEP_ALIVE_SECONDS = 10
_SECONDS_TO_END = 3
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """Where the manager listens."""

    address: str
    port: int

    @property
    def url(self) -> str:
        """What a browser is given."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the Host header may say."""
        names = ("127.0.0.1", "localhost", "[::1]")
        return tuple(f"{name}:{self.port}" for name in names)


def place_of(text: str) -> Place:
    """Return the place that ``ADDRESS:PORT`` names.

    Raises:
        TdeError: it is none, or others could reach it.
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
    if not is_loopback:
        raise TdeError(
            f"{address} can be reached from other machines, and the manager has no TLS yet",
            remedy="Listen on 127.0.0.1, and reach it through ssh -L 8480:127.0.0.1:8480.",
        )
    return Place(address, number)


class _Server(uvicorn.Server):
    """Prints its address when somebody can use it, and another one when asked."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[Place], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup()
        if not self.started:
            return
        found = self.servers[0].sockets[0].getsockname()
        place = Place(found[0], found[1])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell, place)
        self._tell(place)

    async def main_loop(self) -> None:
        """Look seldom whether to end: ten times a second, as uvicorn does, is work all day."""
        while not await self.on_tick(0):
            await asyncio.sleep(_LOOK_SECONDS)


def serve(
    place: Place,
    directory: Path | None,
    *,
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
    sessions = Sessions()
    hosts: set[str] = set(place.hosts)
    app = create_app(directory or default_directory(), sessions, hosts)

    def told(at: Place) -> None:
        hosts.update(at.hosts)
        role = Role.READER if read_only else Role.ADMINISTRATOR
        address = f"{at.url}/login?token={sessions.new_token(role)}"
        tell(f"Open {address}")
        if open_browser:
            webbrowser.open(address)

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
    )
    try:
        _Server(config, told).run()
    except SystemExit as error:
        raise TdeError(
            f"nobody can be served at {place.url}: the address is in use, or may not be used",
            remedy="Name another one with --listen.",
        ) from error
