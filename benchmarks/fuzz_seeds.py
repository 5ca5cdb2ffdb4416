"""Good inputs of the parsers, to be spoilt: every part that one may have stands in one of them."""

from collections.abc import Sequence
from typing import Any

ARMS = ("recgpt", "comirec")
BODIES: dict[str, Sequence[dict[str, Any]]] = {
    "RecallRequest": [
        {"user_id": "u1", "history": [1, "a"], "top_n": 5, "exclude": [3], "explain": True, "not_shown": True},
        {
            "filter": {"and": [{"author": {"in": [1, 2]}}, {"not": {"lang": {"exists": False}}}]},
            "caps": {"author": 2},
            "boost": [
                {"attribute": "uploaded", "weight": 0.5, "half_life": 9.0},
                {"filter": {"a": {"gt": 1}}, "weight": -1},
            ],
            "diversity": 0.3,
            "outcome": "like",
            "min_catalogue": 4,
        },
    ],
    "BatchRequest": [{"requests": [{"history": [1]}, {"user_id": 5, "top_n": 3}], "arm": "recgpt"}],
    "EmbedRequest": [{"user_id": 5, "history": [1, 2], "arm": "recgpt", "outcome": "like"}],
    "FeedbackRequest": [{"user_id": "u", "item_id": 1, "action": "play", "watch_time_ms": 9000, "ts_ms": 1}],
    "ItemBody": [{"id": 9, "attributes": {"author": 1}, "expected_watches": 2.5, "vectors": {"recgpt": [0.1, 0.2]}}],
    "ReloadBody": [{"arm": "recgpt", "bundle": "two", "canary": {"share": 0.1, "seconds": 60}}, {"arm": "a"}],
}
EVENT = {
    "id": "e",
    "request_id": "r",
    "experiment": "x",
    "phase": "0",
    "config": "c",
    "unit": "u",
    "variation": "v",
} | {
    **{"assigned": "recgpt", "served": "recgpt", "reason": "experiment", "bundle": "b", "ts_ms": 1, "share": 0.1},
    **{"items": [1, "2"], "scores": [0.5, 0.25], "asked": 2, "took_ms": 1.5, "teams": ["a", "b"], "picks": [0, 1]},
    **{"shadow": "comirec", "shadow_bundle": "d", "shadow_items": [3], "shadow_scores": [0.1], "shadow_took_ms": 2.5},
    **{"in_both": 1, "event_id": "f", "user": "u", "item": 7, "action": "play", "watch_time_ms": 3},
}
HEADS = [
    b"POST /recall HTTP/1.1\r\nhost: a\r\ncontent-type: a/b\r\nx-priority: high\r\ncontent-length: 2\r\n\r\n{}",
    b"GET /metrics?x=%20 HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-timeout-ms: 5\r\n\r\n",
    b"POST /feedback HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b'POST /recall/batch HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n{"a": [1]}',
    b"HEAD /health HTTP/1.0\r\nauthorization: Bearer rk_x\r\ntraceparent: 00-1-2-01\r\n\r\n",
]
URLS = [
    *(
        b"redis://user:secret@host:6379/0?socket_timeout=5",
        b"unix:///run/redis.sock?db=1",
        b"memory",
        b"redis://[::1]:1",
    ),
    *(b"rediss://host?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required", b"redis+sentinel://a:1,b:2/mymaster/0"),
    *(b"redis+cluster://a:1,b:2", b"rediss+cluster://:pw@a"),
]
# every part that a rule may have; the file that comes with the service has few of them
SPLIT = {
    **{"hashVersion": 2, "hashAttribute": "user_id", "seed": "s", "phase": "1", "name": "n", "active": True},
    **{"variations": [*ARMS], "weights": [0.3, 0.7], "coverage": 0.5, "meta": [{"key": "a"}, {"key": "b", "name": 1}]},
    "condition": {"country": {"$in": ["de", "fr"]}, "$not": {"age": {"$gt": 18}}, "user_id": {"$regex": "^u"}},
}
FILTERED = SPLIT | {
    "key": "filtered",
    "filters": [{"attribute": "user_id", "seed": "t", "ranges": [[0, 0.4], [0.6, 1]]}],
}
STICKY = SPLIT | {
    "key": "sticky",
    **{"fallbackAttribute": "session_id", "bucketVersion": 1, "minBucketVersion": 1, "disableStickyBucketing": False},
}
FORCED = {"force": "recgpt", "id": "f", "seed": "r", "condition": {"$or": [{"session_id": "x"}, {"age": {"$gte": 99}}]}}
FEATURES = [
    {"features": {"recall_arm": {"defaultValue": "comirec", "rules": [FORCED, split]}}} for split in (FILTERED, STICKY)
]
