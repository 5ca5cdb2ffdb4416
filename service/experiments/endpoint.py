"""The experiments of a GrowthBook server, asked again and again in place of a file that is watched.

The last payload that came into force is kept on disk: a service that starts while the server is away has it. Blocks:
call it in a thread.
"""

import urllib.error
import urllib.request
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from model.folders.files import write_file
from service.errors import ConfigurationError
from service.experiments.assignment import Assigner

TIMEOUT_S = 5.0
MAX_BYTES = 16 << 20
log = structlog.get_logger()


class Endpoint:
    """The payload of one address. Belongs to one process."""

    def __init__(self, url: str, kept: Path) -> None:
        """url: as SDKs ask for it, https://HOST/api/features/CLIENT_KEY. kept: the file of the last one in force."""
        self._url, self._kept = url, kept
        # what is told of it: the key at the end of the address is nobody's business
        self._name = f"the experiments of {urlsplit(url).hostname}"
        self._payload: bytes | None = None  # that was got last
        self._etag = ""
        self._problem = f"{self._name} were not asked for"

    def mark(self) -> str:
        """Asks the server: another text, another payload. Raises ConfigurationError where it does not tell."""
        try:
            self._ask()
        except ConfigurationError as error:
            self._problem = str(error)
            raise
        return blake2b(self._payload or b"", digest_size=16).hexdigest()

    def _ask(self) -> None:
        # the address is a setting, and begins with http
        request = urllib.request.Request(self._url, headers={"If-None-Match": self._etag} if self._etag else {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310
                payload = reply.read(MAX_BYTES + 1)
                etag = reply.headers.get("ETag") or ""
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 304:
                raise ConfigurationError(f"{self._name} cannot be read: status {error.code}") from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self._name} cannot be read: {getattr(error, 'reason', error)}") from error
        else:
            if len(payload) > MAX_BYTES:
                raise ConfigurationError(f"{self._name} cannot be read: more than {MAX_BYTES >> 20} MB")
            self._payload, self._etag = payload, etag

    def load(self, arms: Collection[str], has_buckets: bool = False) -> Assigner:
        """The experiments of the payload that `mark` got last; of the kept one where it got none yet.

        Raises ConfigurationError for a payload that is refused, and where there is none.
        """
        if self._payload is None:
            try:
                self._payload = self._kept.read_bytes()
            except OSError:
                raise ConfigurationError(f"{self._problem}, and none are kept from before") from None
            log.warning("experiments_from_before", file=str(self._kept), error=self._problem)
        return Assigner.from_bytes(self._payload, arms, self._name, has_buckets)

    def keep(self) -> None:
        """Keeps the payload that was loaded last, which is in force."""
        payload = self._payload or b""
        try:
            write_file(self._kept, lambda fresh: fresh.write_bytes(payload))
        except OSError as error:
            log.warning("experiments_not_kept", file=str(self._kept), error=str(error))
