"""The open-loop generator against a small server of our own: it keeps its clock, and counts what it should."""

import asyncio
import json
import subprocess
import sys

import pytest

from recall.bench.generator import Generator
from recall.bench.traffic import Bodies, Load, Measured, Sample

PATIENT = {"seconds": 0.6, "warmup_s": 0.2, "connections": 8, "drain_s": 2.0, "deadline_ms": 5000.0}


class Answering(asyncio.Protocol):
    """Answers every request after a while, every `refuse`th with 503, and remembers the bodies."""

    def __init__(self, seen, delay_s, refuse, chunked, garbage):
        self.seen, self.delay_s, self.refuse, self.chunked = seen, delay_s, refuse, chunked
        self.garbage, self.buffer = garbage, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
        if len(rest) < size:
            return
        self.seen.append((head, json.loads(rest[:size])))
        self.buffer = rest[size:]
        asyncio.get_running_loop().call_later(self.delay_s, self.answer, len(self.seen))

    def answer(self, number):
        if self.garbage:
            self.transport.write(self.garbage)
            return
        status = b"503 Busy" if self.refuse and number % self.refuse == 0 else b"200 OK"
        if self.chunked:
            # in two pieces, the first of which ends nothing
            self.transport.write(b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" % status)
            asyncio.get_running_loop().call_later(0.01, self.transport.write, b"0\r\n\r\n")
        else:
            self.transport.write(b"HTTP/1.1 %s\r\nContent-Length: 5\r\n\r\nhello" % status)


def run_against(delay_s=0.0, refuse=0, chunked=False, answer=b"", **load):
    async def main():
        seen = []
        server = await asyncio.get_running_loop().create_server(
            lambda: Answering(seen, delay_s, refuse, chunked, answer), "127.0.0.1", 0
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            asked = Load(port=port, **PATIENT | load)
            sample = await Generator(asked).run()
            await asyncio.sleep(0.05)  # the server's ends close too
            return Measured.of(asked, [sample]), seen

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_sends_at_its_rate_and_counts_every_answer():
    measured, seen = run_against(rate=300.0)
    assert 100 < sum(measured.statuses.values()) < 280  # Poisson around 180
    assert measured.statuses == {"200": sum(measured.statuses.values())}
    assert (measured.lost, measured.goodput) == (0, 1.0)
    assert len(seen) > sum(measured.statuses.values())  # the warm-up was sent and not counted


def test_a_slow_service_does_not_slow_the_clock():
    """Closed loop would send 8 connections / .3 s = 27 a second; here requests are due whether answers come or not."""
    measured, _ = run_against(delay_s=0.3, rate=100.0)
    assert measured.p50_ms > 300
    assert measured.max_ms > 600  # who found no idle connection waited, and the waiting counts
    assert sum(measured.statuses.values()) > 35


def test_refusals_are_told_apart():
    measured, _ = run_against(refuse=4, rate=300.0)
    assert set(measured.statuses) == {"200", "503"}
    assert 0.6 < measured.goodput < 0.9
    # from when they were sent no refusal is slower than from when they were due, which is before
    assert 0 < measured.refused_sent_p99_ms <= measured.refused_p99_ms


def test_answers_in_chunks_are_read_to_their_end():
    measured, _ = run_against(chunked=True, rate=100.0)
    assert measured.statuses == {"200": sum(measured.statuses.values())}
    assert measured.lost == 0
    assert measured.p50_ms > 9


def test_what_is_no_http_is_lost():
    measured, _ = run_against(answer=b"SSH-2.0-server\r\n", rate=50.0, drain_s=0.2)
    assert measured.lost > 0
    assert measured.statuses == {}


def test_what_is_late_is_no_goodput():
    measured, _ = run_against(delay_s=0.1, rate=50.0, deadline_ms=20.0)
    assert (measured.goodput, measured.lost) == (0.0, 0)


def test_what_is_never_answered_is_lost():
    measured, _ = run_against(delay_s=60.0, rate=20.0, drain_s=0.2)
    assert measured.lost > 0
    assert measured.statuses == {}
    assert measured.p99_ms == float("inf")


@pytest.mark.parametrize("users", [1, 3])
def test_bodies_are_what_the_service_takes(users):
    load = Load(port=1, num_items=40, history=6, top_n=9, users_a_request=users, arm="a" if users > 1 else None)
    head, _, body = Bodies(load).next().partition(b"\r\n\r\n")
    assert int(head.split(b"content-length: ")[1]) == len(body)
    asked = json.loads(body)
    members = asked["requests"] if users > 1 else [asked]
    assert len(members) == users
    for member in members:
        assert (len(member["history"]), member["top_n"]) == (6, 9)
        assert all(0 <= item < 40 for item in member["history"])


def test_distinct_histories_come_in_turn():
    bodies = Bodies(Load(port=1, distinct=3))
    first, second = [bodies.next() for _ in range(3)], [bodies.next() for _ in range(3)]
    assert first == second
    assert len(set(first)) == 3
    assert len({Bodies(Load(port=1, seed=n)).next() for n in range(5)}) == 5


def sample_of(latencies_s, due, statuses):
    return Sample(
        latencies_s=latencies_s, lags_s=[0.001] * due, statuses=statuses, due=due, cpu_s=0.5, received_bytes=7
    )


def test_percentiles_of_several_generators_are_those_of_all_latencies():
    quick, slow = sample_of([0.001] * 98, 98, {"200": 98}), sample_of([0.1, 0.2], 4, {"200": 2, "503": 1})
    merged = Measured.of(Load(port=1, seconds=2.0, deadline_ms=50.0), [quick, slow])
    assert (merged.p50_ms, merged.max_ms) == (1.0, 200.0)
    # of 100 latencies the 99th lies between 1 ms and the two slow ones, not at a mean of two percentiles
    assert 100 <= merged.p99_ms < 102
    assert merged.statuses == {"200": 100, "503": 1}
    assert (merged.completed, merged.lost, merged.received_bytes) == (50.0, 1, 14)
    assert merged.goodput == pytest.approx(98 / 102, abs=1e-5)
    assert merged.cpu_us == pytest.approx(1e6 / 102, abs=0.1)


def test_generators_share_a_load():
    load = Load(port=1, rate=90.0, connections=30, distinct=10, seed=4)
    shares = load.shares(3)
    assert [(share.rate, share.connections, share.distinct) for share in shares] == [(30.0, 10, 4)] * 3
    assert len({Bodies(share).next() for share in shares}) == 3
    assert load.shares(1) == [load]


WRITER = """
import asyncio, uvloop
from recall.bench.generator import write_all
uvloop.run(asyncio.sleep(0))
write_all(bytes(300_000))
"""


def test_a_sample_larger_than_a_pipe_arrives_whole():
    """The second one fills its pipe while the first is read."""
    command = [sys.executable, "-c", WRITER]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE) as second,
    ):
        assert [len(process.communicate()[0]) for process in (first, second)] == [300_000] * 2
