"""Decides what of a request is recorded: a user's first exposure of a day, a sample of lists, interleaved lists, forced
answers.

Called for every request, whatever became of it; knows neither Redis nor HTTP. What was recorded before is remembered
within a bound: a user who is forgotten is written again under the same id, and readers count an id once.
"""

import random
import time
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from numpy.typing import NDArray

from service.events.streams import EXPOSURES, FORCED, INTERLEAVED, SHADOW, SHOWN
from service.experiments.assignment import Assignment, Reason
from service.experiments.conditions import UNITS, logged_unit
from service.experiments.exposure import DAY_MS, Exposure, Interleaved, ListFacts, Shadowed, Shown, exposure_id

MAX_REMEMBERED = 200_000  # users of a process; about 15 MB


class RecordedQuery(Protocol):
    """The part of a query that is recorded (RecallQuery of service/queries.py)."""

    @property
    def request_id(self) -> str: ...

    def unit_by(self, attribute: str) -> str | None:
        """The value of an attribute by which experiments choose; None where the request has none."""
        ...

    @property
    def top_n(self) -> int: ...


class RecordedProvenance(Protocol):
    """The teams of an interleaved list (Provenance of service/queries.py)."""

    @property
    def teams(self) -> tuple[str, ...]: ...

    @property
    def picks(self) -> tuple[int, ...]: ...

    @property
    def in_both(self) -> int: ...


class RecordedResult(Protocol):
    """The part of an answer that is recorded (RecallResult of service/queries.py)."""

    @property
    def served(self) -> str:
        """The arm that answered, or the fallback."""
        ...

    @property
    def bundle(self) -> str: ...

    @property
    def item_ids(self) -> NDArray[Any]: ...

    @property
    def scores(self) -> NDArray[Any]: ...

    @property
    def timings_ms(self) -> Mapping[str, float]: ...

    @property
    def provenance(self) -> RecordedProvenance | None:
        """The teams of an interleaved list; None where all items are of one arm."""
        ...


class EventSink(Protocol):
    """Takes events for streams (service/events/outbox.py)."""

    def put(self, stream: str, data: bytes) -> bool:
        """Takes an event; False when it is dropped, which is counted there. Never waits, never raises."""
        ...


class RecentKeys:
    """The keys seen lately: at least the newest half of `max_keys`, at most `max_keys`."""

    def __init__(self, max_keys: int) -> None:
        self._half = max(max_keys // 2, 1)
        self._new: set[int] = set()
        self._old: set[int] = set()

    def __contains__(self, key: int) -> bool:
        return key in self._new or key in self._old

    def add(self, key: int) -> None:
        # two sets in turn: no order is kept, and nothing is removed one by one
        if len(self._new) >= self._half:
            self._old, self._new = self._new, set()
        self._new.add(key)


class ExposureRecorder:
    """Records the requests of one process."""

    def __init__(self, sink: EventSink, sample_share: float = 0.1) -> None:
        """sample_share: of the answers whose list is recorded, chosen at random."""
        self._sink, self._sample_share = sink, sample_share
        self._seen = RecentKeys(MAX_REMEMBERED)
        self.unwritable = 0  # requests whose ids no event can hold

    def record(
        self, query: RecordedQuery, assignment: Assignment, served: str, result: RecordedResult | None = None
    ) -> None:
        """Records a request that was assigned, in each layer; never raises.

        served: see Exposure; no result = nothing was shown.
        """
        try:
            for own in (assignment, *assignment.crossed):
                self._record(query, own, served, result)
        except orjson.JSONEncodeError:
            # a lone surrogate in an id: nothing can keep it
            self.unwritable += 1

    def _record(self, query: RecordedQuery, assignment: Assignment, served: str, result: RecordedResult | None) -> None:
        now_ms = time.time_ns() // 1_000_000
        if assignment.reason is Reason.FORCED:
            # each by itself: feedback on it is known by its user and by its request
            data = self._exposure(query, assignment, served, result, now_ms)
            self._sink.put(FORCED, data)
            return
        unit = unit_of(query, assignment)
        if not assignment.in_experiment or not unit:
            return
        key = hash((assignment, unit, now_ms // DAY_MS))
        if key not in self._seen and self._sink.put(
            EXPOSURES, self._exposure(query, assignment, served, result, now_ms)
        ):
            # a dropped exposure is not remembered: the user's next request tries again
            self._seen.add(key)
        if result is not None and result.provenance is not None:
            # each, not a sample: without it feedback on the list counts for nobody
            self._sink.put(INTERLEAVED, self._interleaved(query, assignment, served, result, result.provenance, now_ms))
        if result is not None and random.random() < self._sample_share:
            self._sink.put(SHOWN, self._shown(query, assignment, served, result, now_ms))

    def record_shadow(
        self, query: RecordedQuery, assignment: Assignment, results: tuple[RecordedResult, RecordedResult], share: float
    ) -> None:
        """Records the list that was shown and that of a shadow arm, which was not; never raises."""
        shown, shadow = results
        shadowed = Shadowed(
            **facts_of(query, assignment, shown.served, shown, time.time_ns() // 1_000_000),
            variation=assignment.variation or "",
            share=share,
            shadow=shadow.served,
            shadow_bundle=shadow.bundle,
            shadow_items=_plain(shadow.item_ids),
            shadow_scores=shadow.scores,
            asked=query.top_n,
            shadow_took_ms=shadow.timings_ms.get("total", 0.0),
        )
        try:
            self._sink.put(SHADOW, orjson.dumps(shadowed, option=orjson.OPT_SERIALIZE_NUMPY))
        except orjson.JSONEncodeError:
            self.unwritable += 1

    @staticmethod
    def _exposure(
        query: RecordedQuery, assignment: Assignment, served: str, result: RecordedResult | None, now_ms: int
    ) -> bytes:
        unit = unit_of(query, assignment)
        exposure = Exposure(
            id=exposure_id(assignment, unit, now_ms),
            experiment=assignment.experiment or "",
            phase=assignment.phase,
            config=assignment.config,
            unit=unit,
            variation=assignment.variation or "",
            assigned=assignment.arm,
            served=served,
            reason=assignment.reason,
            request_id=query.request_id,
            bundle=result.bundle if result else "",
            ts_ms=now_ms,
            settings=assignment.settings.text if assignment.settings else "",
        )
        return orjson.dumps(exposure)

    def _shown(
        self, query: RecordedQuery, assignment: Assignment, served: str, result: RecordedResult, now_ms: int
    ) -> bytes:
        shown = Shown(
            **facts_of(query, assignment, served, result, now_ms),
            variation=assignment.variation or "",
            share=self._sample_share,
            scores=result.scores,
            asked=query.top_n,
            took_ms=result.timings_ms.get("total", 0.0),
        )
        return orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY)

    @staticmethod
    def _interleaved(
        query: RecordedQuery,
        assignment: Assignment,
        served: str,
        result: RecordedResult,
        provenance: RecordedProvenance,
        now_ms: int,
    ) -> bytes:
        interleaved = Interleaved(
            **facts_of(query, assignment, served, result, now_ms),
            teams=provenance.teams,
            picks=provenance.picks,
            in_both=provenance.in_both,
        )
        return orjson.dumps(interleaved, option=orjson.OPT_SERIALIZE_NUMPY)


def facts_of(
    query: RecordedQuery, assignment: Assignment, served: str, result: RecordedResult, ts_ms: int
) -> ListFacts:
    return ListFacts(
        request_id=query.request_id,
        experiment=assignment.experiment or "",
        phase=assignment.phase,
        config=assignment.config,
        unit=unit_of(query, assignment),
        served=served,
        bundle=result.bundle,
        ts_ms=ts_ms,
        items=_plain(result.item_ids),
    )


def unit_of(query: RecordedQuery, assignment: Assignment) -> str:
    """The unit as the log names it; of a forced answer whatever the request has. Empty where it has none."""
    names = [assignment.by, *UNITS] if assignment.reason is Reason.FORCED else [assignment.by]
    units = ((name, query.unit_by(name)) for name in names)
    return next((logged_unit(name, unit) for name, unit in units if unit), "")


def _plain(ids: NDArray[Any]) -> Any:
    """The ids as orjson writes them."""
    return ids if ids.dtype.kind == "i" else ids.tolist()
