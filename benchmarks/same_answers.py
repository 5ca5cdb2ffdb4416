"""Records the answers of a running service to a fixed set of mixed requests, and compares them with an earlier record.

    python -m benchmarks.same_answers record --url http://127.0.0.1:8080 --output before.jsonl
    python -m benchmarks.same_answers compare before.jsonl after.jsonl

The requests cover both arms, explanations, excluded and unknown items, cold users, histories kept from feedback,
batches in JSON and MessagePack, cached vectors, forced variations, query vectors, and every kind of refusal. They are
sent one after another to a freshly started service, so that what is cached is the same each time; give it
`--redis-timeout-ms 5000`, or a machine that stalls answers without a kept history. A record holds
status, experiment headers and body; request ids and timings alone are masked. Two records of one machine, one set of
bundles and one QA key ("qa") must be equal byte for byte whatever was moved or renamed in between.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ormsgpack

MASKED = [
    (re.compile(rb'"request_id":"[0-9a-f]+(-\d+)?"'), rb'"request_id":"*\1"'),
    (re.compile(rb'"timings_ms":\{[^}]*\}'), rb'"timings_ms":"*"'),
]
KEPT_HEADERS = ("content-type", "retry-after", "x-ab-experiment", "x-ab-bucket", "allow")
ARMS = ("recgpt", "comirec")
NUM_USERS = 400
Call = tuple[str, str, dict[str, Any]]  # method, path, what httpx.request takes
Maker = Callable[[np.random.Generator, Iterator[list[int]], list[dict[str, Any]], int], Call]


def histories(rng: np.random.Generator, num_items: int) -> Iterator[list[int]]:
    """Item ids of every length from none to some hundred, a few of them unknown."""
    while True:
        length = int(rng.choice([0, 1, 2, 5, 10, 20, 50, 51, 120]))
        yield rng.integers(1, num_items + 5, length).tolist()


def requests(count: int, num_items: int, seed: int) -> Iterator[Call]:
    rng = np.random.default_rng(seed)
    drawn = histories(rng, num_items)
    told: list[dict[str, Any]] = []
    makers: list[Maker] = [plain, pinned, explained, excluding, repeated, kept]
    makers += [batch, packed, embed, refused, forced, described]
    weights = np.array([20, 20, 10, 10, 12, 8, 4, 3, 4, 5, 3, 1], dtype=float)
    for number in range(count):
        make = makers[int(rng.choice(len(makers), p=weights / weights.sum()))]
        yield make(rng, drawn, told, number)


def body_of(rng: np.random.Generator, drawn: Iterator[list[int]]) -> dict[str, Any]:
    body: dict[str, Any] = {"history": next(drawn), "top_n": int(rng.choice([1, 5, 20, 100, 500]))}
    if rng.random() < 0.9:
        body["user_id"] = int(rng.integers(1, NUM_USERS))
    return body


def post(path: str, body: object, **headers: str) -> Call:
    return "POST", path, {"json": body, "headers": headers}


def plain(rng: np.random.Generator, drawn: Iterator[list[int]], told: list[dict[str, Any]], _: int) -> Call:
    told.append(body_of(rng, drawn))
    return post("/recall", told[-1])


def pinned(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    return post(f"/recall/{rng.choice(ARMS)}", body_of(rng, drawn))


def explained(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    return post(f"/recall/{rng.choice(ARMS)}", body_of(rng, drawn) | {"explain": True})


def excluding(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    return post("/recall", body_of(rng, drawn) | {"exclude": next(drawn), "explain": bool(rng.random() < 0.5)})


def repeated(rng: np.random.Generator, drawn: Iterator[list[int]], told: list[dict[str, Any]], number: int) -> Call:
    """The same history again: its vectors come from the cache."""
    if not told:
        return plain(rng, drawn, told, number)
    return post("/recall", told[int(rng.integers(len(told)))])


def kept(rng: np.random.Generator, _drawn: Iterator[list[int]], _told: list[dict[str, Any]], number: int) -> Call:
    """Feedback, and requests that name a user alone and so read what feedback left."""
    user = f"kept-{rng.integers(0, 20)}"
    if rng.random() < 0.5:
        return post("/recall", {"user_id": user, "top_n": 20, "explain": True})
    event = {"user_id": user, "item_id": int(rng.integers(1, 300)), "action": str(rng.choice(["play", "like", "hide"]))}
    return post("/feedback", event | {"ts_ms": 1_700_000_000_000 + number})


def members(rng: np.random.Generator, drawn: Iterator[list[int]]) -> dict[str, Any]:
    asked: list[Any] = [body_of(rng, drawn) for _ in range(int(rng.integers(1, 9)))]
    if rng.random() < 0.3:
        asked.append({"top_n": "many"})
    return {"requests": asked} | ({"arm": str(rng.choice(ARMS))} if rng.random() < 0.3 else {})


def batch(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    return post("/recall/batch", members(rng, drawn))


def packed(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    """MessagePack in, JSON out, so that ids and timings can be masked as everywhere."""
    content = ormsgpack.packb(members(rng, drawn))
    return "POST", "/recall/batch", {"content": content, "headers": {"content-type": "application/msgpack"}}


def embed(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    return post("/embed", {"history": next(drawn), "user_id": int(rng.integers(1, NUM_USERS)), "arm": "recgpt"})


def refused(rng: np.random.Generator, *_: Any) -> Call:
    """One of the ways to be refused."""
    calls: list[Call] = [
        post("/recall", {"top_n": 0}),
        post("/recall", {"top_n": 5000}),
        post("/recall", {"history": [1.5]}),
        post("/recall", {"history": list(range(1, 1200))}),
        post("/recall", {"unknown": 1}),
        post("/recall", []),
        post("/recall/nobody", {"history": [1]}),
        post("/recall", {"history": [1]}, **{"x-request-timeout-ms": "soon"}),
        post("/recall", {"history": [1]}, **{"x-ab-bucket": "control"}),
        post("/recall", {"history": [1]}, **{"x-ab-bucket": "control", "x-qa-key": "wrong"}),
        post("/recall", {"history": [1]}, **{"x-ab-bucket": "nobody", "x-qa-key": "qa"}),
        ("POST", "/recall", {"content": b"{", "headers": {}}),
        ("POST", "/recall", {"content": b"[" + b"1," * 40_000 + b"1]", "headers": {}}),
        ("POST", "/recall/batch", {"content": b"\xc1", "headers": {"content-type": "application/msgpack"}}),
        post("/recall/batch", {"requests": []}),
        post("/recall/batch", {"requests": [{}], "arm": "nobody"}),
        post("/feedback", {"user_id": 1, "item_id": 2, "action": "sing"}),
        post("/embed", {"history": [1], "arm": "nobody"}),
        ("GET", "/recall", {}),
        ("GET", "/nowhere", {}),
    ]
    return calls[int(rng.integers(len(calls)))]


def forced(rng: np.random.Generator, drawn: Iterator[list[int]], *_: Any) -> Call:
    bucket = str(rng.choice(["control", "treatment", *ARMS]))
    return post("/recall", body_of(rng, drawn), **{"x-ab-bucket": bucket, "x-qa-key": "qa"})


def described(*_: Any) -> Call:
    return "GET", "/arms", {}


def record(url: str, count: int, seed: int, output: Path) -> Counter[int]:
    """Asks and writes one JSON line an answer; returns how many answers had each status."""
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=url, timeout=30) as client, output.open("w", encoding="utf-8") as lines:
        sizes = client.get("/arms").json()["arms"]
        num_items = min(arm["num_items"] for arm in sizes.values())
        for method, path, given in requests(count, num_items, seed):
            answer = client.request(method, path, **given)
            body = answer.content
            for pattern, mask in MASKED:
                body = pattern.sub(mask, body)
            headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
            line = [method, path, answer.status_code, headers, body.decode("utf-8", "backslashreplace")]
            lines.write(json.dumps(line) + "\n")
            statuses[answer.status_code] += 1
    return statuses


def differences(before: Path, after: Path) -> list[str]:
    """A line for each answer that is not the same, byte for byte."""
    old, new = (path.read_text(encoding="utf-8").splitlines() for path in (before, after))
    listed = [] if len(old) == len(new) else [f"{len(old)} answers before, {len(new)} after"]
    pairs = enumerate(zip(old, new, strict=False))
    return listed + [
        f"request {n}:\n  {before[:300]}\n  {after[:300]}" for n, (before, after) in pairs if before != after
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("record", help="ask a running service")
    asking.add_argument("--url", default="http://127.0.0.1:8080")
    asking.add_argument("--count", type=int, default=2000)
    asking.add_argument("--seed", type=int, default=0)
    asking.add_argument("--output", type=Path, required=True)
    comparing = commands.add_parser("compare", help="compare two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        statuses = record(given.url, given.count, given.seed, given.output)
        print(json.dumps({"answers": sum(statuses.values()), "statuses": dict(sorted(statuses.items()))}))
        return
    listed = differences(given.before, given.after)
    print("\n".join(listed[:20]))
    print(json.dumps({"differ": len(listed)}))
    sys.exit(bool(listed))


if __name__ == "__main__":
    main()
