"""The app of the replay: what it sends to a service and gets back, over the public API alone."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

TIMEOUT_S = 120.0
IDLE_S = 2.0  # a connection is not used again after so long: the service closes those that say nothing for 5 s
TRIES = 3
STALLED = 408  # the service has waited too long for the rest of a request
MAX_EVENTS = 256  # of a batch, the service's default
COLD_START = "cold_start"
# reasons of a degraded list that follow from the request: the same request gets the same list again
LASTING = frozenset({COLD_START, "unknown_items", "filled", "rules_leave_fewer"})
LONG_AGO_MS = 3_600_000  # before the replay, so that no clock takes it for a part of the experiment


class ReplayError(ValueError):
    """The service did not do what a replay needs; the sentence says what it answered."""


@dataclass(frozen=True, slots=True)
class ShownList:
    """A list as the app sees it."""

    items: Sequence[int]
    arm: str  # assigned
    served: str
    request_id: str
    degraded: Sequence[str]

    @property
    def is_disturbed(self) -> bool:
        """True where the machine's state made it another list than the request would get at another time."""
        return self.served != self.arm or not LASTING.issuperset(self.degraded)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Raises ReplayError for a problem in place of a list."""
        if "items" not in body:
            raise ReplayError(f"no list: {body.get('code')}: {body.get('message')}")
        experiment = body["experiment"]
        return cls(body["items"], experiment["assigned"], experiment["served"], body["request_id"], body["degraded"])


class AppClient:
    """Asks and tells; every answer that is no acknowledgement raises ReplayError."""

    def __init__(self, url: str, connections: int) -> None:
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_S
        )
        # trust_env: a proxy of the environment knows nothing of this machine's own ports
        self._client = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self._client.aclose()

    async def ask(self, request: Mapping[str, Any], arm: str | None = None) -> ShownList:
        """The list of one user, of the arm that the experiment gives, or of the one that is named."""
        return ShownList.of(await self._post(f"/recall/{arm}" if arm else "/recall", request))

    async def ask_all(self, requests: Sequence[Mapping[str, Any]], arm: str | None) -> list[ShownList]:
        """The lists of many users in one call; an arm that is named keeps them out of the experiment."""
        named = {"arm": arm} if arm else {}
        body = await self._post("/recall/batch", {"requests": requests, **named})
        return [*map(ShownList.of, body["responses"])]

    async def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Feedback, in its order; returns when all of it is kept."""
        for start in range(0, len(events), MAX_EVENTS):
            body = await self._post("/feedback/batch", {"events": events[start : start + MAX_EVENTS]})
            if refused := [answer for answer in body["responses"] if "event_id" not in answer]:
                raise ReplayError(f"feedback was refused: {refused[0].get('code')}: {refused[0].get('message')}")

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self._send(path, orjson.dumps(body))
        if reply.status_code == STALLED:
            # a machine that others use stopped this process in the middle of a body
            reply = await self._send(path, orjson.dumps(body))
        if reply.status_code >= 300:
            raise ReplayError(f"{path} is answered with {reply.status_code}: {reply.text[:300]}")
        answer: dict[str, Any] = orjson.loads(reply.content)
        return answer

    async def _send(self, path: str, content: bytes) -> httpx.Response:
        """Sends again what a closed connection took: asking twice changes nothing, events have their ids."""
        for _ in range(TRIES - 1):
            with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                return await self._client.post(path, content=content)
        try:
            return await self._client.post(path, content=content)
        except httpx.HTTPError as error:
            raise ReplayError(f"{path} is not answered: {error!r}") from error


def now_ms() -> int:
    return int(time.time() * 1e3)
