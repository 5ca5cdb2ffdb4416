"""Abuse over HTTP (fault tests 17 to 19, 21 and 23): a 4xx in one small shape, whatever was sent, and never a 5xx."""

import socket
from urllib.parse import urlsplit

import pytest

from model.ids import RULE as ID_RULE

# What is no id, as it stands in the JSON; -1 and -2^63 are legal ids that nobody has.
BAD_IDS = {
    "2^63": b"9223372036854775808",
    "below -2^63": b"-9223372036854775809",
    "10^30": b"1" + 30 * b"0",
    "10^5000": b"1" + 5000 * b"0",
    "true": b"true",
    "1.0": b"1.0",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "1e400": b"1e400",
    "lone surrogate": rb'"\ud800"',
    "invalid UTF-8": b'"\xff\xfe"',
    "NUL": rb'"a\u0000"',
    "raw NUL": b'"a\x00"',
    "CRLF": rb'"a\r\nX-Injected: 1"',
    "DEL": rb'"\u007f"',
    "empty": b'""',
    "129 characters": b'"' + 129 * b"x" + b'"',
    "list": b"[1]",
    "object": b"{}",
}
PLACES = {
    "user_id": ("/recall", b'{"user_id": %s}'),
    "history": ("/recall/recgpt", b'{"history": [10001, %s]}'),
    "exclude": ("/recall", b'{"exclude": [%s]}'),
    "embed": ("/embed", b'{"history": [%s]}'),
    "feedback user": ("/feedback", b'{"user_id": %s, "item_id": 1, "action": "play"}'),
    "feedback item": ("/feedback", b'{"user_id": 1, "item_id": %s, "action": "play"}'),
}
BODIES = {
    "nothing": (b"", 400),
    "no JSON": (b"top_n=5", 400),
    "half": (b'{"top_n": 5', 400),
    "two documents": (b"{}{}", 400),
    "nesting 1e5": (60_000 * b"[", 400),
    "closed nesting": (b'{"history": ' + 30_000 * b"[" + 30_000 * b"]" + b"}", 400),
    "null": (b"null", 422),
    "list": (b"[]", 422),
    "string": (b'"{}"', 422),
    "unknown field": (b'{"colour": 1}', 422),
    "unknown field of 10,000 letters": (b'{"%s": 1}' % (10_000 * b"k"), 422),
    "history is a string": (b'{"history": "10001"}', 422),
    "history is an object": (b'{"history": {"0": 1}}', 422),
    "1,001 items": (b'{"history": [%s]}' % b",".join([b"1"] * 1001), 422),
    "1,001 excluded": (b'{"exclude": [%s]}' % b",".join([b"1"] * 1001), 422),
    "1e6 items": (b'{"history": [%s]}' % b",".join([b"1"] * 1_000_000), 413),
    "explain 1": (b'{"explain": 1}', 422),
}


def refused(reply, *statuses: int) -> dict:
    """The problem in a refusal of one of these statuses, small and in the one shape."""
    assert reply.status_code in (statuses or (400, 413, 422)), reply.text[:300]
    assert len(reply.content) <= 4096
    problem = reply.json()
    assert problem.keys() == {"code", "message", "retryable", "request_id"}
    assert problem["retryable"] is False
    assert len(problem["message"]) <= 300
    return problem


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_id_is_refused(client, place, bad):
    path, body = PLACES[place]
    reply = client.post(path, content=body % BAD_IDS[bad])
    refused(reply, 400, 422)
    assert "x-injected" not in reply.headers


@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_id_in_a_batch_is_refused(client, bad):
    reply = client.post("/recall/batch", content=b'{"requests": [{"history": [%s]}]}' % BAD_IDS[bad])
    if reply.status_code == 200:
        assert reply.json()["responses"][0]["code"] == "bad_request"
    else:
        refused(reply, 400)


@pytest.mark.parametrize("legal", ["-1", "0", str(2**63 - 1), str(-(2**63)), '"7"', '"' + 128 * "ü" + '"'])
def test_odd_but_legal_id_is_nobody_yet(client, legal):
    reply = client.post("/recall", content=f'{{"user_id": {legal}, "history": [{legal}]}}')
    assert reply.status_code == 200
    assert "unknown_items" in reply.json()["degraded"]


@pytest.mark.parametrize(
    ("body", "where"), [(b'{"history": [1, 2, 3, true]}', "history.3"), (b'{"user_id": 1.0}', "user_id")]
)
def test_message_says_where_the_bad_id_stands_and_what_an_id_is(client, body, where):
    assert refused(client.post("/recall", content=body), 422)["message"] == f"{where}: {ID_RULE}"


@pytest.mark.parametrize("path", ["/recall", "/recall/comirec"])
@pytest.mark.parametrize("name", BODIES)
def test_bad_body_is_refused(client, path, name):
    body, status = BODIES[name]
    refused(client.post(path, content=body), status)


def test_last_of_two_equal_keys_counts(client):
    reply = client.post("/recall", content=b'{"top_n": 3, "top_n": 4}')
    assert len(reply.json()["items"]) == 4


def test_repeated_items_are_taken_as_they_are(client):
    assert client.post("/recall/recgpt", json={"history": [10001] * 30}).json()["degraded"] == []


@pytest.mark.parametrize(
    "top_n", ["0", "-1", "1001", "1000000000", "1e9", "1" + 30 * "0", "true", '"5"', "1.5", "null"]
)
def test_bad_top_n_is_refused(client, top_n):
    assert refused(client.post("/recall", content=f'{{"top_n": {top_n}}}'), 422)["message"].startswith("top_n: ")


@pytest.mark.parametrize(
    ("requests", "status"),
    [([], 422), ([1], 422), ([{}] * 257, 422), ("", 422), ([{"user_id": "u" * 100}] * 9999, 413)],
)
def test_bad_batch_is_refused(client, requests, status):
    refused(client.post("/recall/batch", json={"requests": requests}), status)


@pytest.mark.parametrize("event", [{}, {"action": "stare"}, {"watch_time_ms": -1}, {"ts_ms": 2**63}, {"event_id": ""}])
def test_bad_event_is_refused(client, event):
    whole = {"user_id": 1, "item_id": 1, "action": "play"} if event else {}
    refused(client.post("/feedback", json=whole | event), 422)


def test_endless_chunked_body_is_cut_off(client):
    def chunks():
        for _ in range(2000):
            yield b" " * 10_000

    assert refused(client.post("/recall", content=chunks()), 413)["code"] == "body_too_large"


def test_body_of_64_kib_is_read_and_one_byte_more_is_not(client):
    body = b'{"top_n": 2}'.ljust(64 * 1024)
    assert client.post("/recall", content=body).status_code == 200
    refused(client.post("/recall", content=body + b" "), 413)


@pytest.mark.parametrize(("method", "path"), [("GET", "/recall"), ("PUT", "/recall/recgpt"), ("DELETE", "/health")])
def test_wrong_method_is_refused_with_the_right_one(client, method, path):
    reply = client.request(method, path)
    refused(reply, 405)
    assert reply.headers["allow"] in {"POST", "GET"}


@pytest.mark.parametrize("path", ["/", "/nowhere", "/recall/", "/recall/a/b", "/recall/batch/", "/Recall"])
def test_unknown_path_is_refused_without_a_redirect(client, path):
    refused(client.post(path, json={}), 404)


@pytest.mark.parametrize("arm", ["nobody", "%00%0d%0a", "n" * 5000, "..%2f..%2fetc%2fpasswd", "RECGPT"])
def test_unknown_arm_is_refused(client, arm):
    refused(client.post(f"/recall/{arm}", json={}), 404)


@pytest.mark.parametrize("path", ["/recall/batch", "/embed"])
def test_unknown_arm_in_the_body_is_refused(client, path):
    body = {"arm": "n" * 128} | ({"requests": [{}]} if path == "/recall/batch" else {})
    assert refused(client.post(path, json=body), 404)["code"] == "unknown_arm"


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "nan", "-inf"])
def test_bad_deadline_is_refused(client, text):
    refused(client.post("/recall", json={}, headers={"X-Request-Timeout-Ms": text}), 422)


def test_deadline_that_has_passed_is_a_retryable_504(client):
    reply = client.post("/recall", json={}, headers={"X-Request-Timeout-Ms": "0.0001"})
    assert reply.status_code == 504
    assert reply.headers["Retry-After"] == "1"
    assert reply.json()["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("", 403), ("wrong", 403), ("only-for-test", 403), ("only-for-testsß", 403)]
)
def test_bucket_without_the_right_key_is_refused(client, key, status):
    headers = {"X-AB-Bucket": b"recgpt"} | ({} if key is None else {"X-QA-Key": key.encode("latin-1")})
    refused(client.post("/recall", json={}, headers=headers), status)


def test_key_in_the_query_is_no_key(client):
    refused(client.post("/recall?X-QA-Key=only-for-tests", json={}, headers={"X-AB-Bucket": "recgpt"}), 401)


@pytest.mark.parametrize(("bucket", "arm"), [("control", "comirec"), ("recgpt", "recgpt"), ("comirec", "comirec")])
def test_right_key_forces_a_variation_or_an_arm(client, bucket, arm):
    reply = client.post("/recall", json={"user_id": 1}, headers={"X-AB-Bucket": bucket, "X-QA-Key": "only-for-tests"})
    answer = reply.json()
    assert (answer["arm"], answer["experiment"]["reason"]) == (arm, "forced")


@pytest.mark.parametrize("bucket", ["nobody", "", "b" * 5000, "é"])
def test_unknown_bucket_is_refused_and_not_repeated(client, bucket):
    headers = {"X-AB-Bucket": bucket.encode("latin-1"), "X-QA-Key": b"only-for-tests"}
    reply = client.post("/recall", json={}, headers=headers)
    assert refused(reply, 404)["code"] == "unknown_arm"
    assert "x-ab-bucket" not in reply.headers


def exchange(service, request: bytes) -> bytes:
    """First bytes of the answer to raw bytes."""
    where = urlsplit(service.url)
    with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
        connection.sendall(request)
        return connection.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /recall HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /recall HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /recall HTTP/1.1\r\nHost: a\r\nX-AB-Bucket: a\rb\r\n\r\n",
        b"POST /recall HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
    ids=["two lengths", "negative length", "bare CR", "bad chunk", "TLS"],
)
def test_torn_http_is_a_400(service, head):
    assert exchange(service, head).startswith(b"HTTP/1.1 400 ")


def test_client_who_leaves_in_mid_body_harms_nobody(service, client):
    where = urlsplit(service.url)
    for _ in range(5):
        with socket.create_connection((where.hostname, where.port)) as connection:
            connection.sendall(b"POST /recall HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")
    assert client.post("/recall", json={}).status_code == 200
    assert "internal_error" not in service.log.read_text()


def test_no_refusal_is_logged_as_a_server_error(client, service):
    for body, _ in BODIES.values():
        client.post("/recall", content=body)
    written = service.log.read_text()
    assert '"status": 500' not in written
    assert "Traceback" not in written
