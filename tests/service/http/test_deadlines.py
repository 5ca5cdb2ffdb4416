"""A deadline that has passed: an error for the caller who named it, a labelled list for one who named none."""

import asyncio

import httpx
import pytest

from service.engine_process import open_engines
from service.http.app import create_app
from service.settings import Settings

TOO_SHORT_MS = 0.001  # to compute anything: it has passed before the engine is asked
NAMED = {"X-Request-Timeout-Ms": str(TOO_SHORT_MS)}


@pytest.fixture(scope="module")
def replies(bundles):
    """The replies of each path: to a request whose deadline is the service's own, and to one whose caller named it."""
    settings = Settings(
        arms={"recgpt": bundles["recgpt"]}, redis_url="memory", request_timeout_ms=TOO_SHORT_MS, log_level="error"
    )

    async def main():
        app = create_app(settings, open_engines)
        by_path = {}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://recall") as client,
        ):
            for path in ("/recall", "/recall/recgpt", "/recall/batch"):
                single = {"history": [10_001, 10_008], "top_n": 5}
                body = {"requests": [single]} if path.endswith("batch") else single
                sent = [await client.post(path, json=body, headers=headers) for headers in ({}, NAMED)]
                by_path[path] = [reply.json() for reply in sent]
        return by_path

    by_path = asyncio.run(main())
    by_path["/recall/batch"] = [reply["responses"][0] for reply in by_path["/recall/batch"]]
    return by_path


@pytest.mark.parametrize("path", ["/recall", "/recall/recgpt", "/recall/batch"])
def test_only_who_named_a_deadline_is_refused_after_it(replies, path):
    unnamed, named = replies[path]
    assert (unnamed["experiment"]["served"], len(unnamed["items"])) == ("fallback", 5)
    assert unnamed["degraded"][:2] == ["deadline", "fallback"]
    assert named["code"] == "deadline_exceeded"
