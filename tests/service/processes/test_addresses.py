"""Addresses in both families, and a port that is held for processes that share it."""

import socket

import pytest

from service.processes.addresses import address_of, hold, listen, url_of


@pytest.mark.parametrize(
    ("host", "bare", "family"),
    [
        ("127.0.0.1", "127.0.0.1", socket.AF_INET),
        ("::1", "::1", socket.AF_INET6),
        ("[::1]", "::1", socket.AF_INET6),
        ("localhost", "localhost", socket.AF_INET),
    ],
)
def test_colons_make_an_address_of_ipv6(host, bare, family):
    assert address_of(host) == (bare, family)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("[::1]", "http://[::1]:80")]
)
def test_an_address_of_ipv6_has_brackets_in_its_url(host, url):
    assert url_of(host, 80) == url


def test_a_port_that_is_taken_is_an_error():
    with listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])


def test_a_held_port_is_shared_by_those_who_say_so():
    with hold("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with listen("127.0.0.1", port, reuse_port=True) as first, listen("127.0.0.1", port, reuse_port=True) as second:
            assert first.getsockname() == second.getsockname() == held.getsockname()


def test_a_port_that_is_not_shared_cannot_be_held():
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        hold("127.0.0.1", taken.getsockname()[1])


def test_a_held_port_takes_no_connection():
    with hold("127.0.0.1", 0) as held, pytest.raises(ConnectionRefusedError):
        socket.create_connection(held.getsockname(), timeout=60)
