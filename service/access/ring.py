"""The keys in force: found by hash, counted, limited in their rate, and read again where their file changes.

A file that is refused leaves the keys before in force; /ready, the log and a metric tell it until a good one is there.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from hmac import compare_digest
from pathlib import Path

import structlog

from service.access.keys import ApiKey, digest_of, parse_keys
from service.errors import ConfigurationError
from service.settings import Settings

WATCH_S = 1.0  # between two looks at the file
VARIABLE = "RECALL_API_KEYS"
log = structlog.get_logger()


class Allowance:
    """The requests that a key may still send: they grow back with time, up to those of one second."""

    __slots__ = ("_clock", "_left", "_since", "per_second")

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self._clock = per_second, clock
        self._left, self._since = self._most, clock()

    @property
    def _most(self) -> float:
        # a slow key may send one at any time
        return max(1.0, self.per_second)

    def take(self) -> bool:
        """Counts a request; False where it is one too many."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._since) * self.per_second)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class KeyRing:
    """The keys of one process. Belongs to its event loop."""

    def __init__(self, read: Callable[[], str], where: str, share: float = 1.0) -> None:
        """read: the text of the keys, `where` it stands. share: of each key's rate that is this process's.

        Raises ConfigurationError for keys that cannot be used.
        """
        self._read, self._where, self._share = read, where, share
        self._text = self._load()
        self._keys = parse_keys(self._text, where)
        self._allowances: dict[str, Allowance] = {}  # by name, of the keys that have a limit
        self._limit(self._keys)
        self.refusal: str | None = None  # the reason why what is there now is not in force
        self.requests: Counter[str] = Counter()  # with a key that is in force, by its name

    def find(self, secret: bytes) -> ApiKey | None:
        """The key in force that this is; None for any other bytes."""
        digest = digest_of(secret)
        key = self._keys.get(digest)
        # looking a hash up tells nobody how much of it is right, since nobody can choose one; the last word is equality
        if key is None or not compare_digest(key.digest, digest):
            return None
        self.requests[key.name] += 1
        return key

    def admits(self, key: ApiKey) -> bool:
        """Counts a request against the key's rate; False where it is one too many."""
        allowance = self._allowances.get(key.name)
        return allowance is None or allowance.take()

    def warnings(self) -> list[str]:
        """Reasons to look after it, for /ready."""
        return ["api_keys_refused"] if self.refusal else []

    async def watch(self, interval_s: float = WATCH_S) -> None:
        """Looks every `interval_s` until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.look()

    async def look(self) -> None:
        """Takes the keys that are there now, where they are others than those seen last."""
        try:
            text = await asyncio.to_thread(self._load)
            if text == self._text and self.refusal is None:
                return
            keys = parse_keys(text, self._where)
        except ConfigurationError as error:
            if self.refusal != str(error):
                log.warning("api_keys", result="refused", reason=str(error))
            self.refusal = str(error)
            return
        self._limit(keys)
        self._text, self._keys, self.refusal = text, keys, None
        log.info("api_keys", result="swapped", keys=sorted(key.name for key in keys.values()))

    def _load(self) -> str:
        try:
            return self._read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(f"{self._where}: the keys cannot be read: {reason}") from None

    def _limit(self, keys: Mapping[bytes, ApiKey]) -> None:
        """A key whose rate has not changed keeps what it has left: reading the file gives nobody more."""
        limits = {key.name: key.per_second * self._share for key in keys.values() if key.per_second is not None}
        old = self._allowances
        self._allowances = {
            name: old[name] if name in old and old[name].per_second == limit else Allowance(limit)
            for name, limit in limits.items()
        }


def open_keys(settings: Settings) -> KeyRing | None:
    """The keys of the settings; None where nobody needs one. Raises ConfigurationError."""
    # HTTP processes share a key's rate: together they never let more through
    share = 1 / max(1, settings.http_workers)
    if settings.api_keys_file is not None:
        path = settings.api_keys_file
        return KeyRing(lambda: read_text(path), str(path), share)
    if settings.api_keys is not None:
        text = settings.api_keys.get_secret_value()
        return KeyRing(lambda: text, VARIABLE, share)
    return None


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
