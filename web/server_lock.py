"""One server per folder: a second one would treat the running jobs of the first as interrupted."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lib.errors import ConfigError, RevoiceError
from lib.files import write_errors, write_json
from lib.json_reader import read_json_table

logger = logging.getLogger(__name__)

MAX_SHOWN = 200  # characters of an address


class ServerLock:
    """The lock of a folder, held while its server runs; the system releases it if the server is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._addresses = folder / ".server.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. ConfigError with the address of the server that holds it already."""
        lock = FileLock(self._folder / ".server.lock", timeout=0)
        with write_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise self._in_use() from error
            except NotImplementedError:  # some network folders have no locks
                logger.warning("%s cannot be locked: do not start a second server on it", self._folder)
        try:
            self._addresses.unlink(missing_ok=True)  # of a server that was killed
            yield
        finally:
            self._addresses.unlink(missing_ok=True)
            lock.release()

    def announce(self, addresses: Sequence[str]) -> None:
        """Write the addresses of the page, for the message of a second server."""
        write_json(self._addresses, {"addresses": list(addresses)})

    def _in_use(self) -> ConfigError:
        with contextlib.suppress(RevoiceError, KeyError, IndexError, TypeError):
            address = str(read_json_table(self._addresses)["addresses"][0])[:MAX_SHOWN]
            return ConfigError(
                "Another server uses {folder}; its page is at {address}. Open that page, or end that server first.",
                folder=self._folder, address=address,
            )  # fmt: skip
        return ConfigError(
            "Another server, which is just starting, uses {folder}. Wait for its page, or end it first.",
            folder=self._folder,
        )
