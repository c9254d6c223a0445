"""Allows one server per folder: a second one would treat the running jobs of the first as interrupted."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.errors import ConfigError, RevoiceError
from lib.files import write_json
from lib.json_reader import read_json_table
from lib.locks import folder_lock

MAX_SHOWN = 200  # characters of an address


class ServerLock:
    """The lock of a folder, held while its server runs, and the addresses at which the server can be reached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._addresses = folder / ".server.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. Raises ConfigError, with the address of the other server, if another server holds it."""
        with folder_lock(self._folder, ".server.lock", self._in_use):
            try:
                self._addresses.unlink(missing_ok=True)  # of a server that was killed
                yield
            finally:
                self._addresses.unlink(missing_ok=True)

    def announce(self, addresses: Sequence[str]) -> None:
        """Write the addresses of the server to the lock file, for the error message of a second server."""
        write_json(self._addresses, {"addresses": list(addresses)})

    def _in_use(self) -> ConfigError:
        with contextlib.suppress(RevoiceError, KeyError, IndexError, TypeError):
            address = str(read_json_table(self._addresses)["addresses"][0])[:MAX_SHOWN]
            return ConfigError(
                "Another server, at {address}, is already using {folder}. Open that address, or stop that server "
                "first.",
                folder=self._folder, address=address,
            )  # fmt: skip
        return ConfigError(
            "Another server is starting and is already using {folder}. Wait until it is ready, or stop it first.",
            folder=self._folder,
        )
