"""Records of a reload and its seams: what each arm serves, which bundle takes its place, who has to hear of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    """The traffic of a canary, a bundle on trial beside the one in force, and the bounds that end the trial."""

    share: float  # of the users
    seconds: float = 600.0  # that it stays within its bounds; then it is in force
    max_errors: float = 0.02  # share of failed answers beyond that of the other bundle
    max_slowdown: float = 2.0  # times the latency of the other bundle
    min_overlap: float = 0.1  # share of items that the lists of both have in common


@dataclass(frozen=True, slots=True)
class Canary:
    """The bundle on trial beside an arm's."""

    bundle: str
    folder: str
    terms: CanaryTerms
    has_cache: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """The bundle that an arm serves and what became of the last one offered; the same in every process."""

    arm: str
    bundle: str  # its digest, the first 16 hexadecimal digits
    folder: str  # where it lay when it was opened, links resolved
    previous: str | None = None  # the bundle that a roll back puts in its place
    refusal: str | None = None  # the reason why the last bundle offered was refused; None once one was taken
    has_cache: bool = False  # its engine looks for vectors in a cache
    canary: Canary | None = None  # while one is on trial


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """The wish for another bundle of an arm: the one in its own folder, in a folder beside it, or the previous one."""

    arm: str
    bundle: str | None = None  # name of a folder beside the arm's own
    rollback: bool = False  # ends a trial, where one is under way
    canary: CanaryTerms | None = None  # not at once: on trial
    promote: bool = False  # the canary is in force, before its time
    reason: str | None = None  # of a roll back that no person wants, but a bound that was left


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """An arm after a reload that was not refused."""

    arm: str
    bundle: str
    previous: str | None
    changed: bool  # False: this bundle was served already
    seconds: float
    canary: str | None = None  # the bundle on trial
    overlap: float | None = None  # of its lists with those of the one before, on recorded histories; None = not known
    compared: int = 0  # recorded histories


class Releases(Protocol):
    """Knows what is served and puts another bundle in its place (service/reload: here, or in the engine process)."""

    def states(self) -> Sequence[ReleaseState]:
        """The state of each arm."""
        ...

    async def reload(self, wanted: ReloadRequest) -> ReloadOutcome:
        """Serves another bundle, proven before and without a lost request.

        Raises UnknownArm, ReloadUnderWay, or ReloadRefused with the reason; then nothing has changed.
        """
        ...


class ReleaseListener(Protocol):
    """Processes that translate ids for an engine of this one; they must know a bundle before it is served."""

    async def prepare(self, coming: ReleaseState) -> None:
        """Returns once all could serve this bundle. Raises ReloadRefused when one cannot."""
        ...

    async def tell(self, states: Sequence[ReleaseState]) -> None:
        """Makes known what is served now, and what was refused."""
        ...
