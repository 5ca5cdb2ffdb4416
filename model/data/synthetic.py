"""A generator of short-video logs, the embedded default: what runs with no data at hand.

It imitates, each with a setting of SyntheticSpec: items of one topic each with Zipf popularity; users with a few
interests that drift between sessions; sessions in which the next video often continues the previous one (the next part
of its series), so that order can be learned; watch time and reactions that follow the user's affinity to the topic.
Users step in parallel, one video at a time: cost grows with the longest user, not with the number of users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.logs.events import DataError, EventLog

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
REDRAWS = 4
# Probability of a reaction to a video fully watched in the user's first interest.
REACTION_RATES = {"like": 0.25, "follow": 0.04, "share": 0.05, "comment": 0.06}


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """The size and the character of a synthetic log; equal specs give equal logs."""

    num_users: int = 6000
    num_items: int = 3000
    num_topics: int = 40
    num_interests: int = 3  # topics a user likes at a time, the first one most
    mean_sessions: float = 5.0
    mean_session_videos: float = 8.0
    num_days: int = 30
    zipf_exponent: float = 0.9
    series_length: int = 6  # videos a series
    continue_rate: float = 0.4  # the next video is the next part of the series
    stay_rate: float = 0.3  # else: it is of the topic just watched
    explore_rate: float = 0.1  # else: it is of any topic; else of one of the interests
    drift_rate: float = 0.25  # an interest is exchanged between two sessions
    seed: int = 7

    def __post_init__(self) -> None:
        if min(self.num_users, self.num_topics, self.num_interests, self.num_days) < 1 or self.series_length < 2:
            raise DataError("synthetic: users, topics, interests and days must be 1 or more, series_length 2 or more")
        if self.num_items < self.num_topics or self.num_topics < self.num_interests:
            raise DataError("synthetic: there must be at least as many items as topics and as many topics as interests")
        if min(self.mean_sessions, self.mean_session_videos) < 1:
            raise DataError("synthetic: mean_sessions and mean_session_videos must be 1 or more")


@dataclass(frozen=True)
class SyntheticLog:
    log: EventLog  # item ids 1..num_items, user ids 1..num_users, by time
    topics: Ints  # (num_items,) topic of each item id, id 1 first


@dataclass(frozen=True)
class _Videos:
    """The catalogue; items are numbered from 0 and lie sorted by topic."""

    topics: Ints  # (N,)
    following: Ints  # (N,) the next part of the series, in a ring
    duration_ms: Floats  # (N,)
    weight_ends: Floats  # (N,) running sum of popularity: one draw is one binary search
    topic_bounds: Floats  # (T + 1,) the running sum where each topic begins

    def draw(self, topics: Ints, rng: np.random.Generator) -> Ints:
        """One item of each topic, by popularity."""
        low, high = self.topic_bounds[topics], self.topic_bounds[topics + 1]
        at = np.searchsorted(self.weight_ends, low + (high - low) * rng.random(len(topics)), side="right")
        first, end = np.searchsorted(self.topics, topics), np.searchsorted(self.topics, topics, side="right")
        return np.clip(at, first, end - 1)


@dataclass
class _Audience:
    """The state of all users between two steps. Changed in place."""

    interests: Ints  # (U, I)
    previous: Ints  # (U,) item last watched, -1 at the start of a session
    watched: list[Ints] = field(default_factory=list)  # one (U,) a step, -1 where a user had none

    def has_watched(self, users: Ints, items: Ints) -> NDArray[np.bool_]:
        seen = np.zeros(len(users), dtype=np.bool_)
        for step in self.watched:
            seen |= step[users] == items
        return seen


@dataclass(frozen=True)
class _Step:
    """The items that the active users watched at one step."""

    session: int
    users: Ints
    items: Ints
    affinity: Floats


def generate(spec: SyntheticSpec) -> SyntheticLog:
    """A log and the topics of its items, deterministic by `spec.seed`."""
    rng = np.random.default_rng(spec.seed)
    videos = _make_videos(spec, rng)
    num_sessions = 1 + rng.poisson(spec.mean_sessions - 1, spec.num_users)
    steps = _watch(spec, videos, num_sessions, rng)
    users, items, affinity = (
        np.concatenate([getattr(step, name) for step in steps]) for name in ("users", "items", "affinity")
    )
    signals = _react(videos.duration_ms[items], affinity, rng)
    times = _times(spec, steps, signals["play_time_ms"], rng)
    names = rng.permutation(spec.num_items) + 1  # the external id says nothing of topic or popularity
    frame = pl.DataFrame({"user": users + 1, "item": names[items], "time": times, **signals})
    topics = np.empty(spec.num_items, dtype=np.int64)
    topics[names - 1] = videos.topics
    return SyntheticLog(EventLog(frame.sort("time", "user", maintain_order=True)), topics)


def _make_videos(spec: SyntheticSpec, rng: np.random.Generator) -> _Videos:
    spread = rng.integers(spec.num_topics, size=spec.num_items - spec.num_topics)
    topics = np.sort(np.concatenate([np.arange(spec.num_topics), spread]))  # every topic has an item
    weights = rng.permutation(1.0 / np.arange(1, spec.num_items + 1) ** spec.zipf_exponent)
    ends = np.cumsum(weights)
    starts = np.searchsorted(topics, np.arange(spec.num_topics + 1))
    return _Videos(
        topics=topics,
        following=_link_series(topics, spec.series_length),
        # a median of 20 seconds, from 5 seconds to 3 minutes
        duration_ms=np.clip(rng.lognormal(np.log(20_000), 0.7, spec.num_items), 5_000, 180_000).round(),
        weight_ends=ends,
        topic_bounds=np.concatenate([[0.0], ends])[starts],
    )


def _link_series(topics: Ints, length: int) -> Ints:
    """Neighbours of a topic form series of `length` videos (the last one of a topic may be shorter); each is a ring."""
    at = np.arange(len(topics))
    within = at - np.searchsorted(topics, topics)
    series = topics * len(topics) + within // length
    first = np.searchsorted(series, series)
    is_last = np.append(series[1:] != series[:-1], True)
    return np.where(is_last, first, at + 1)


def _watch(spec: SyntheticSpec, videos: _Videos, num_sessions: Ints, rng: np.random.Generator) -> list[_Step]:
    order = rng.random((spec.num_users, spec.num_topics)).argsort(axis=1)
    audience = _Audience(order[:, : spec.num_interests], np.full(spec.num_users, -1))
    steps = []
    for session in range(num_sessions.max()):
        sizes = np.where(num_sessions > session, 1 + rng.poisson(spec.mean_session_videos - 1, spec.num_users), 0)
        _start_session(spec, audience, rng)
        for position in range(sizes.max()):
            users = np.flatnonzero(sizes > position)
            items = _choose(spec, videos, audience, users, rng)
            _remember(audience, users, items)
            steps.append(_Step(session, users, items, _affinity(audience.interests[users], videos.topics[items])))
    return steps


def _start_session(spec: SyntheticSpec, audience: _Audience, rng: np.random.Generator) -> None:
    audience.previous[:] = -1
    drifting = np.flatnonzero(rng.random(spec.num_users) < spec.drift_rate)
    slot = rng.integers(spec.num_interests, size=len(drifting))
    audience.interests[drifting, slot] = rng.integers(spec.num_topics, size=len(drifting))


def _choose(spec: SyntheticSpec, videos: _Videos, audience: _Audience, users: Ints, rng: np.random.Generator) -> Ints:
    previous = audience.previous[users]
    continues = (previous >= 0) & (rng.random(len(users)) < spec.continue_rate)
    items = np.where(continues, videos.following[previous], -1)
    # A feed seldom shows a video twice: draw again, and let the few that remain stand.
    for _ in range(REDRAWS):
        again = np.flatnonzero((items < 0) | audience.has_watched(users, items))
        last = np.where(previous[again] < 0, -1, videos.topics[previous[again]])
        items[again] = videos.draw(_draw_topics(spec, audience.interests[users[again]], last, rng), rng)
    return items


def _draw_topics(spec: SyntheticSpec, interests: Ints, last: Ints, rng: np.random.Generator) -> Ints:
    """The topic of each next video; `last` is the topic just watched, -1 at the start of a session."""
    weights = _interest_weights(interests.shape[1])
    picked = rng.choice(interests.shape[1], size=len(interests), p=weights / weights.sum())
    topics = interests[np.arange(len(interests)), picked]
    topics = np.where(
        rng.random(len(topics)) < spec.explore_rate, rng.integers(spec.num_topics, size=len(topics)), topics
    )
    return np.where((last >= 0) & (rng.random(len(topics)) < spec.stay_rate), last, topics)


def _interest_weights(num_interests: int) -> Floats:
    return 1.0 / np.arange(1.0, num_interests + 1)


def _remember(audience: _Audience, users: Ints, items: Ints) -> None:
    audience.previous[users] = items
    step = np.full(len(audience.previous), -1)
    step[users] = items
    audience.watched.append(step)


def _affinity(interests: Ints, topics: Ints) -> Floats:
    """1 for the first interest, less for the others, 0.1 outside all of them."""
    # Interests can coincide after a drift; the strongest one counts.
    match = (interests == topics[:, None]) * _interest_weights(interests.shape[1])
    best: Floats = match.max(axis=1)
    return np.maximum(best, 0.1)


def _react(duration_ms: Floats, affinity: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    # play time / duration; above 1 the video was played again
    ratio = np.minimum((0.15 + affinity) * rng.lognormal(-0.3, 0.6, len(affinity)), 3.0)
    signals = {"play_time_ms": (ratio * duration_ms).round(), "duration_ms": duration_ms}
    # Reactions need both: a liked topic and a video watched.
    interest = affinity * np.minimum(ratio, 1.0)
    for name, rate in REACTION_RATES.items():
        signals[name] = (rng.random(len(affinity)) < rate * interest).astype(np.float64)
    return signals


def _times(spec: SyntheticSpec, steps: Sequence[_Step], play_ms: Floats, rng: np.random.Generator) -> Ints:
    """Sessions of a user lie at least an hour apart; within one, a video starts when the one before ends."""
    num_sessions = steps[-1].session + 1
    # Sorted begins spread sessions over the whole span, so that a cut by time finds users on both sides.
    begins = np.sort(rng.random((spec.num_users, num_sessions)), axis=1) * spec.num_days * 24 * HOUR_MS
    clock = np.zeros(spec.num_users)
    times, at, session = [], 0, -1
    for step in steps:
        if step.session != session:
            session = step.session
            clock = np.maximum(begins[:, session], clock + HOUR_MS * (session > 0))
        times.append(START_MS + clock[step.users].astype(np.int64))
        # half a second to swipe on
        clock[step.users] += play_ms[at : at + len(step.users)] + 500
        at += len(step.users)
    return np.concatenate(times)
