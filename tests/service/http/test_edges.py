"""The edge of the service: methods, encodings, heads without end, addresses, and a stop in mid-request."""

import gzip
import os
import signal
import socket
import sys
import time
from urllib.parse import urlsplit

import httpx
import pytest
import zmq

from service.processes.addresses import hold, listen, url_of
from service.processes.supervisor import HTTP, Child, told_to_children
from service.remote.messages import AskAlive, AskReleases, decode_from_worker
from service.settings import Settings

LIMIT_S = 60


def connect(service):
    where = urlsplit(service.url)
    return socket.create_connection((where.hostname, where.port), timeout=LIMIT_S)


def read_all(connection):
    """Everything until the other side closes; a reset counts as closed."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/arms", "/version"])
def test_head_is_answered_like_a_get_without_a_body(client, path):
    reply = client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-type"] == client.get(path).headers["content-type"]


def test_head_of_what_is_posted_is_refused(client):
    reply = client.head("/recall")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/recall", "/recall/batch", "/feedback", "/embed"])
def test_compressed_body_is_named_as_such(client, path):
    reply = client.post(path, content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_encoding")
    assert client.post(path, content=b"", headers={"Content-Encoding": "identity"}).status_code == 400


HEADS = {
    "many headers": (b"X-%d: 1\r\n" % n for n in range(3000)),
    "large headers": (b"X-%d: %s\r\n" % (n, b"v" * 65_000) for n in range(90)),
    "a header without end": (b"X: ", *[b"v" * 65_000] * 90),
    "an address without end": (b"", *[b"v" * 65_000] * 90),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_without_end_is_cut_off(service, client, name):
    sent = 0
    with connect(service) as connection:
        connection.sendall(b"GET /" if name == "an address without end" else b"GET /ready HTTP/1.1\r\nHost: a\r\n")
        try:
            for part in HEADS[name]:
                connection.sendall(part)
                sent += len(part)
        except OSError:
            pass  # closed, as it should be
        answer = read_all(connection)
    # what lies in the buffers of both kernels cannot be told from what was read
    assert sent < 6_000_000
    if answer:
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b'"head_too_large"' in answer
    assert client.get("/ready").status_code == 200


def test_torn_http_is_refused_in_the_one_shape(service):
    with connect(service) as connection:
        connection.sendall(b"POST /recall HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_http"' in answer


def test_stop_ends_a_half_sent_body_in_the_one_shape(launch, arm_options):
    with launch(*arm_options, "--redis-url", "memory") as served, connect(served) as connection:
        connection.sendall(b"POST /recall HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")
        time.sleep(0.5)
        assert served.stop() == 0
        answer = read_all(connection)
        log = served.log.read_text()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"unavailable"' in answer
    assert "Traceback" not in log


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize(("host", "reachable"), [("::1", ["::1"]), ("[::1]", ["::1"]), ("::", ["::1", "127.0.0.1"])])
def test_ipv6_addresses_are_listened_on(host, reachable):
    with hold(host, 0) as held:
        port = held.getsockname()[1]
        with listen(host, port, reuse_port=True):
            for address in reachable:
                socket.create_connection((address, port), timeout=LIMIT_S).close()


@needs_ipv6
def test_a_service_on_ipv6_prints_an_address_that_answers(launch, arm_options):
    with launch(*arm_options, "--redis-url", "memory", "--host", "::1") as served:
        assert served.url.startswith("http://[::1]:")
        assert httpx.get(f"{served.url}/ready").json()["ready"] is True


def test_addresses_are_written_as_urls_want_them():
    assert [url_of(host, 1) for host in ("::", "127.0.0.1", "[::1]")] == [
        "http://[::]:1",
        "http://127.0.0.1:1",
        "http://[::1]:1",
    ]


def test_http_processes_import_nothing_of_the_current_folder(tmp_path, monkeypatch):
    for name in ("model", "secrets", "zmq"):
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    # as when the command is installed: the current folder is no place of code
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as engine:
        engine.linger = 0
        engine.bind(f"ipc://{tmp_path}/engine")
        child = Child(HTTP, told_to_children(Settings(arms={"main": tmp_path}), 0, f"ipc://{tmp_path}/engine"))
        child.start()
        try:
            assert engine.poll(LIMIT_S * 1000), "the process never asked"
            message, *_ = decode_from_worker(engine.recv_multipart()[-1])
        finally:
            child.signal(signal.SIGKILL)
            while not child.has_ended:
                time.sleep(0.01)
    assert isinstance(message, AskReleases | AskAlive)
    assert os.listdir(tmp_path).count("ran") == 0


PROXIES = {"ALL_PROXY": "socks5://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


def test_a_proxy_is_not_asked_for_this_machine(service, run_recall):
    ended = run_recall("query", "--url", service.url, "--user", "1", **PROXIES)
    assert ended.status == 0, ended.err


def test_a_proxy_that_cannot_be_used_is_one_sentence(run_recall):
    ended = run_recall("query", "--url", "http://recall.invalid", "--user", "1", ALL_PROXY="socks5://127.0.0.1:9")
    assert (ended.status, "nothing answers at" in ended.sentence) == (2, True)
