"""One world: a service of its own, in which everybody of an audience opens the app a few times.

A session is one list: the app asks, the user reacts, the app tells. Histories are the service's own and grow by what
it is told. Worlds share nothing, so that a user can live in several, once with each arm.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from recall.bench.target import serving
from recall.replay.audiences.audience import ACTIONS, OF_LIST, PLAYS, Audience, Past, Reactions
from recall.replay.client import COLD_START, LONG_AGO_MS, AppClient, ReplayError, ShownList, now_ms
from service.stores.embedded_redis import EmbeddedRedis

# A replay measures lists, not speed: on a busy machine a slow answer must not become another list.
PATIENT = (
    *("--request-timeout-ms", "60000", "--redis-timeout-ms", "10000", "--events-timeout-ms", "30000"),
    *("--engine-stall-ms", "60000", "--target-wait-ms", "30000"),
)
WORKERS = 4  # groups of users under way at once: the service computes while this process reads and writes
EVENT_MEMORY = 2 << 30  # bytes; nobody consumes the events of a world before it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The rules of one world: who meets which arm, and how often."""

    sessions: int = 5
    top_n: int = 10
    dropped: int = 0  # most popular items that nobody is shown
    arm: str | None = None  # None = the experiment gives each user one
    users_a_request: int = 64  # 1 = POST /recall, more = POST /recall/batch


@dataclass(frozen=True, slots=True)
class Place:
    """A running service and the Redis that holds its events."""

    url: str
    redis_url: str


@contextmanager
def open_world(arms: Mapping[str, Path], folder: Path, experiment: Mapping[str, Any] | None = None) -> Iterator[Place]:
    """A service that knows nobody yet; its Redis lies in `folder`, with the events of the world."""
    folder.mkdir(parents=True, exist_ok=True)
    options: list[str] = []
    if experiment is not None:
        path = folder / "experiments.json"
        path.write_bytes(orjson.dumps(experiment))
        options = ["--experiments", str(path)]
    with (
        EmbeddedRedis(folder / "redis", EVENT_MEMORY) as redis,
        serving(dict(arms), "--redis-url", redis.url, *PATIENT, *options) as target,
    ):
        yield Place(target.url, redis.url)


def live(url: str, audience: Audience, script: Script) -> pl.DataFrame:
    """Plays a world; one row a user, in the order of the audience.

    Columns: user, arm (as assigned), shown, plays_before, the sums of every metric, plays of each list, `disturbed`
    (lists that the machine's state changed) and `real` (shown items whose reaction was read from a log).
    """
    return asyncio.run(_live(url, audience, script))


async def _live(url: str, audience: Audience, script: Script) -> pl.DataFrame:
    users = audience.users.tolist()
    # the users of a group ask at once: of single requests sixteen are under way
    size = max(16, script.users_a_request)
    groups = [users[start : start + size] for start in range(0, len(users), size)]
    left, rows = iter(range(len(groups))), {}

    async with AppClient(url, connections=WORKERS * 16) as client:

        async def work() -> None:
            # groups are taken in turn; a user's sessions follow each other
            for number in left:
                rows[number] = await Group(client, audience, script, groups[number]).play()

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(WORKERS):
                    tasks.create_task(work())
        except ExceptionGroup as failed:
            # the first says why; the others were stopped for its sake
            raise failed.exceptions[0] from failed
    return pl.concat([rows[number] for number in range(len(groups))])


def check_histories(pasts: Sequence[Past], answers: Sequence[ShownList]) -> None:
    """Raises ReplayError where first lists follow from no history, although the service was told of plays."""
    known = [answer for past, answer in zip(pasts, answers, strict=True) if past.plays]
    if known and all(COLD_START in answer.degraded for answer in known):
        raise ReplayError(
            f"none of {len(known)} users has a history, although the service was told what they had played: the "
            "arms' rule of a positive takes none of it (`positive` of GET /arms)"
        )


class Group:
    """Some users who open the app at about the same time."""

    def __init__(self, client: AppClient, audience: Audience, script: Script, users: Sequence[int]) -> None:
        self._client, self._audience, self._script, self._users = client, audience, script, users
        self._rules = audience.rules(script.dropped)
        self._seen: list[list[int]] = [[] for _ in users]
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(users)))
        self._arms = [""] * len(users)

    async def play(self) -> pl.DataFrame:
        pasts = [self._audience.past(user) for user in self._users]
        await self._begin(pasts)
        for number in range(1, self._script.sessions + 1):
            answers = await self._ask()
            if number == 1:
                check_histories(pasts, answers)
            reactions, owners, items = self._react(answers)
            # list by list: it shows how a lift comes about as histories grow
            self._sums[f"{PLAYS}{OF_LIST}{number}"] += np.bincount(owners, reactions.plays, len(answers))
            await self._client.tell([*self._events(answers, reactions, owners, items)])
        before = [past.plays_before for past in pasts]
        return pl.DataFrame({"user": self._users, "arm": self._arms, "plays_before": before, **self._sums})

    async def _begin(self, pasts: Sequence[Past]) -> None:
        """The service is told of what everybody did before."""
        # before anything that the replay will tell, so that the order of a history is the true one
        at = now_ms() - LONG_AGO_MS
        self._seen = [[*past.seen] for past in pasts]
        await self._client.tell(
            [
                # one after the other: the id of an event that names none has its time
                {"user_id": user, "item_id": item, "action": "play", "ts_ms": at + place, **past.signals}
                for user, past in zip(self._users, pasts, strict=True)
                for place, item in enumerate(past.plays)
            ]
        )

    async def _ask(self) -> list[ShownList]:
        bodies = [
            {"user_id": user, "top_n": self._script.top_n, "exclude": seen, **self._rules}
            for user, seen in zip(self._users, self._seen, strict=True)
        ]
        if self._script.users_a_request == 1:
            return list(await asyncio.gather(*(self._client.ask(body, self._script.arm) for body in bodies)))
        return await self._client.ask_all(bodies, self._script.arm)

    def _react(self, answers: Sequence[ShownList]) -> tuple[Reactions, np.ndarray, np.ndarray]:
        """Reactions to all lists as flat pairs, added up a user."""
        # flat pairs: one call for the reactions of a whole group
        owners = np.repeat(np.arange(len(answers)), [len(answer.items) for answer in answers])
        items = np.array([item for answer in answers for item in answer.items], dtype=np.int64)
        reactions = self._audience.react(np.array(self._users)[owners], items)
        for name, values in reactions.sums().items():
            self._sums[name] += np.bincount(owners, values, len(answers))
        self._sums["shown"] += np.bincount(owners, minlength=len(answers))
        self._sums["disturbed"] += [answer.is_disturbed for answer in answers]
        self._arms = [answer.arm for answer in answers]
        for seen, answer in zip(self._seen, answers, strict=True):
            seen.extend(answer.items)
        return reactions, owners, items

    def _events(
        self, answers: Sequence[ShownList], reactions: Reactions, owners: np.ndarray, items: np.ndarray
    ) -> Iterator[dict[str, Any]]:
        """Plays and the actions on them. Other views are not told: the service would take them for plays."""
        at = now_ms()
        for k in np.flatnonzero(reactions.plays).tolist():
            owner = int(owners[k])
            event: dict[str, Any] = {"user_id": self._users[owner], "item_id": int(items[k]), "ts_ms": at}
            event["request_id"] = answers[owner].request_id
            watched, lasts = round(reactions.view_ms[k]), round(reactions.duration_ms[k])
            yield event | {"action": "play", "watch_time_ms": watched, "duration_ms": lasts}
            for name, drawn in reactions.actions.items():
                if drawn[k]:
                    yield event | {"action": ACTIONS[name]}
