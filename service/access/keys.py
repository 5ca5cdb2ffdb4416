"""Keys of the API as their holders and the service know them: the one has the key, the other its hash.

A key is 256 random bits, so a plain SHA-256 is enough: there is no dictionary to try. One line a key:

    feed      recall,feedback  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  500/s
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from math import isfinite
from secrets import token_urlsafe

from service.errors import ConfigurationError

FORM = "NAME SCOPES sha256:HASH, and [REQUESTS/s] where it is limited; `recall keys new` prints one"
PREFIX, MARK, UNIT = "rk_", "sha256:", "/s"
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
HASH = re.compile(r"[0-9a-f]{64}")
MAX_KEYS = 10_000


class Scope(StrEnum):
    """The rights that a key may give; none includes another."""

    RECALL = "recall"  # lists and vectors
    FEEDBACK = "feedback"
    QA = "qa"  # a forced variation, beside `recall`
    ADMIN = "admin"  # bundles and items change
    MONITOR = "monitor"  # metrics, arms, versions: for machines that must change nothing


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the service knows it."""

    name: str  # of its holder; in metrics, never a secret
    scopes: frozenset[Scope]
    digest: bytes  # SHA-256 of the key
    per_second: float | None = None  # most requests; None = no limit

    @property
    def line(self) -> str:
        """The line of a file of keys."""
        scopes = ",".join(scope for scope in Scope if scope in self.scopes)
        limit = "" if self.per_second is None else f" {self.per_second:g}{UNIT}"
        return f"{self.name} {scopes} {MARK}{self.digest.hex()}{limit}"


def new_key(name: str, scopes: Iterable[str], per_second: float | None = None) -> tuple[str, ApiKey]:
    """A fresh key, and what the service may know of it. Raises ConfigurationError for a bad name, scope or limit."""
    secret = PREFIX + token_urlsafe(32)
    limit = "" if per_second is None else f"{per_second}{UNIT}"
    key = _read(f"{name} {','.join(scopes)} {MARK}{digest_of(secret.encode()).hex()} {limit}".split(), "the key")
    return secret, key


def digest_of(secret: bytes) -> bytes:
    return sha256(secret).digest()


def parse_keys(text: str, where: str) -> Mapping[bytes, ApiKey]:
    """The keys of a text, by digest: one a line, or with semicolons between them; `#` begins a comment.

    Raises ConfigurationError with the place, which quotes nothing: somebody may have put the key itself there.
    """
    keys: dict[bytes, ApiKey] = {}
    names: set[str] = set()
    entries = [entry for line in text.splitlines() for entry in line.partition("#")[0].split(";")]
    for number, words in enumerate(map(str.split, entries), 1):
        if not words:
            continue
        place = f"{where}, line {number}"
        key = _read(words, place)
        if key.digest in keys or key.name in names:
            raise ConfigurationError(f"{place}: its name, or its key, stands in a line before")
        keys[key.digest] = key
        names.add(key.name)
    if not 0 < len(keys) <= MAX_KEYS:
        raise ConfigurationError(f"{where}: {len(keys)} keys, and there are 1 to {MAX_KEYS}")
    return keys


def _read(words: list[str], place: str) -> ApiKey:
    if len(words) not in (3, 4):
        raise ConfigurationError(f"{place}: it is {FORM}")
    name, scopes, marked = words[:3]
    if not NAME.fullmatch(name):
        raise ConfigurationError(f"{place}: a name is up to 64 letters, digits and _.-")
    if not marked.startswith(MARK) or not HASH.fullmatch(marked.removeprefix(MARK)):
        raise ConfigurationError(f"{place}: {MARK} and 64 hexadecimal digits are expected, the hash and not the key")
    try:
        allowed = frozenset(map(Scope, scopes.split(",")))
    except ValueError:
        raise ConfigurationError(f"{place}: scopes are {', '.join(Scope)}, with commas between") from None
    limit = _read_limit(words[3], place) if len(words) == 4 else None
    return ApiKey(name, allowed, bytes.fromhex(marked.removeprefix(MARK)), limit)


def _read_limit(word: str, place: str) -> float:
    try:
        per_second = float(word.removesuffix(UNIT)) if word.endswith(UNIT) else 0.0
    except ValueError:
        per_second = 0.0
    if not (isfinite(per_second) and per_second > 0):
        raise ConfigurationError(f"{place}: a limit is a number above 0 and {UNIT}, for example 500{UNIT}")
    return per_second
