"""The limits of a consumer, for those who start one too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """How long events wait for a file, and how long files stay."""

    interval_s: float = 30
    keep_days: float = 90
    keep_bytes: int = 10 << 30


DEFAULTS = ConsumerLimits()
