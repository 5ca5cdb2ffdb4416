"""Clients that drip: whoever has not sent a whole request in time is cut off, whatever comes meanwhile."""

import socket
import time
from urllib.parse import urlsplit

from service.http.protocol import RECEIVE_S

LIMIT_S = 60
STARTS = {
    "nothing": b"",
    "half a head": b"POST /recall HTTP/1.1\r\nhost: a\r\n",
    "half a body": b"POST /recall HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n{",
    "a second one": b"POST /recall HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}POST /rec",
    "half a body for events": b"POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n{",
}


def test_slow_clients_are_cut_off_and_a_patient_one_is_answered(service, recall):
    where = urlsplit(service.url)
    slow = {name: socket.create_connection((where.hostname, where.port), timeout=LIMIT_S) for name in STARTS}
    began = time.monotonic()
    answers = dict.fromkeys(STARTS, b"")
    for name, connection in slow.items():
        connection.sendall(STARTS[name])
    while time.monotonic() - began < RECEIVE_S - 2:
        for name in ("half a head", "half a body"):
            slow[name].sendall(b" " if name == "half a body" else b"x: 1\r\n")
        recall(history=[10_001])
        time.sleep(0.5)
    for name, connection in slow.items():
        with connection:
            while part := connection.recv(65536):
                answers[name] += part
    assert time.monotonic() - began < LIMIT_S
    # one whose connection was idle long enough meanwhile is closed without a word
    assert answers.pop("a second one").startswith(b"HTTP/1.1 200 ")
    for name, answer in answers.items():
        assert answer.startswith(b"HTTP/1.1 408 "), name
        assert b'"code":"request_too_slow"' in answer
