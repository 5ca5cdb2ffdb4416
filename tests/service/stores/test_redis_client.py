"""RedisClient against a real redis-server that dies, freezes, refuses and comes back; EmbeddedRedis itself."""

import asyncio
import os
import signal
import socketserver
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from service.errors import ConfigurationError
from service.stores.embedded_redis import EmbeddedRedis, find_server
from service.stores.history import RedisHistory
from service.stores.redis_causes import FailureCause
from service.stores.redis_client import CircuitBreaker, RedisClient, RedisLimits, RedisUnavailable

PATIENT = RedisLimits(timeout_ms=2000)


@pytest.fixture
def server(tmp_path):
    with EmbeddedRedis(tmp_path) as running:
        yield running


def with_redis(url, use, limits=PATIENT):
    """Run `use(redis)` in an event loop of its own."""

    async def main():
        redis = RedisClient(url, "test", limits)
        try:
            return await use(redis)
        finally:
            await redis.close()

    return asyncio.run(main())


def kill(server):
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    server._server.wait()


async def cause_of_ping(redis):
    try:
        await redis.run(lambda client: client.ping())
    except RedisUnavailable as down:
        return down.cause
    return None


def test_runs_an_operation_and_returns_its_result(server):
    async def use(redis):
        await redis.run(lambda client: client.set(b"key", b"value"))
        return await redis.run(lambda client: client.get(b"key"))

    assert with_redis(server.url, use) == b"value"


def test_refused_socket_opens_the_breaker_at_once(tmp_path):
    async def use(redis):
        return [await cause_of_ping(redis) for _ in range(3)], redis.is_down

    assert with_redis(f"unix://{tmp_path}/nobody.sock", use) == (
        [FailureCause.REFUSED, FailureCause.OPEN, FailureCause.OPEN],
        True,
    )


def test_refused_port_opens_the_breaker_at_once():
    async def use(redis):
        return [await cause_of_ping(redis), await cause_of_ping(redis)]

    assert with_redis("redis://127.0.0.1:1", use) == [FailureCause.REFUSED, FailureCause.OPEN]


def test_an_event_loop_that_is_busy_elsewhere_is_no_redis_that_is_down(server):
    async def use(client):
        await client.run(lambda redis: redis.set("key", "value"))
        replies = []
        for _ in range(4):
            # runs while the reply is on its way, for longer than a call may take
            asyncio.get_running_loop().call_soon(time.sleep, 0.3)
            replies.append(await client.run(lambda redis: redis.get("key")))
        return replies, dict(client.failures)

    assert with_redis(server.url, use, RedisLimits(timeout_ms=100)) == ([b"value"] * 4, {})


def test_frozen_server_costs_three_timeouts_and_then_nothing(server):
    async def use(redis):
        await cause_of_ping(redis)
        os.kill(server.pid, signal.SIGSTOP)
        causes, waited_s = [], []
        for _ in range(5):
            start = time.monotonic()
            causes.append(await cause_of_ping(redis))
            waited_s.append(time.monotonic() - start)
        os.kill(server.pid, signal.SIGCONT)
        return causes, max(waited_s)

    # long enough for a ping on a shared machine; the own waits of redis-py are 58.8 s
    causes, longest_s = with_redis(server.url, use, RedisLimits(timeout_ms=200, open_s=30))
    assert causes == [FailureCause.TIMEOUT] * 3 + [FailureCause.OPEN] * 2
    assert longest_s < 5


def test_frozen_server_that_thaws_serves_again(server):
    async def use(redis):
        os.kill(server.pid, signal.SIGSTOP)
        frozen = [await cause_of_ping(redis) for _ in range(3)]
        os.kill(server.pid, signal.SIGCONT)
        return frozen, await seconds_until_served(redis)

    frozen, recovery_s = with_redis(server.url, use, RedisLimits(timeout_ms=50, open_s=0.2))
    assert FailureCause.TIMEOUT in frozen
    assert recovery_s < 5


async def seconds_until_served(redis):
    start = time.monotonic()
    while await cause_of_ping(redis) is not None:
        assert time.monotonic() - start < 10
        await asyncio.sleep(0.02)
    return time.monotonic() - start


def test_killed_server_is_served_again_after_its_restart(server):
    async def use(redis):
        await redis.run(lambda client: client.set(b"key", b"value"))
        kill(server)
        down = [await cause_of_ping(redis) for _ in range(4)]
        await asyncio.to_thread(server.ensure)
        return down, await seconds_until_served(redis), redis.is_down

    down, recovery_s, is_down = with_redis(server.url, use)
    assert down[-1] is FailureCause.OPEN
    assert recovery_s < 5
    assert not is_down


def test_no_reply_reaches_another_caller_when_calls_are_cut(server):
    async def read(redis, number):
        try:
            async with asyncio.timeout(0.0005 * (number % 4)):
                return await redis.run(lambda client: client.get(f"key:{number}"))
        except (RedisUnavailable, TimeoutError):
            return None

    async def use(redis):
        await redis.run(lambda client: client.mset({f"key:{n}": str(n) for n in range(40)}))
        rounds = [await asyncio.gather(*(read(redis, n) for n in range(40))) for _ in range(10)]
        return [(n, got) for answers in rounds for n, got in enumerate(answers) if got is not None]

    assert all(got == str(n).encode() for n, got in with_redis(server.url, use))


def test_refused_command_is_counted_and_leaves_the_breaker_closed(server):
    async def use(redis):
        await redis.run(lambda client: client.set(b"key", b"value"))
        with pytest.raises(RedisUnavailable):
            await redis.run(lambda client: client.lrange(b"key", 0, -1))
        return dict(redis.failures), redis.is_down

    assert with_redis(server.url, use) == ({FailureCause.ERROR: 1}, False)


def test_full_memory_is_a_cause_of_its_own(server):
    async def use(redis):
        await redis.run(lambda client: client.config_set("maxmemory", 1))
        for call in (lambda client: client.set(b"k", b"v"), lambda client: client.eval("redis.call('SET', 'k', 1)", 0)):
            with pytest.raises(RedisUnavailable):
                await redis.run(call)
        return dict(redis.failures), redis.refusal, redis.is_down

    assert with_redis(server.url, use) == ({FailureCause.MEMORY: 2}, FailureCause.MEMORY, False)


def test_a_full_disk_is_a_cause_of_its_own_and_told(server):
    async def use(redis):
        # a folder that holds no files, as a disk does that has no room; then a save that fails
        await redis.run(lambda client: client.config_set("dir", "/proc"))
        await redis.run(lambda client: client.config_set("save", "3600 1"))
        await redis.run(lambda client: client.bgsave())
        while (await redis.run(lambda client: client.info("persistence")))["rdb_last_bgsave_status"] == "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for call in (lambda client: client.set(b"k", b"v"), lambda client: client.eval("redis.call('SET', 'k', 1)", 0)):
            with pytest.raises(RedisUnavailable):
                await redis.run(call)
        return dict(redis.failures), redis.refusal, redis.is_down

    assert with_redis(server.url, use) == ({FailureCause.DISK: 2}, FailureCause.DISK, False)


def test_read_only_server_is_a_cause_of_its_own(server):
    async def use(redis):
        await redis.run(lambda client: client.replicaof("127.0.0.1", "1"))
        with pytest.raises(RedisUnavailable):
            await redis.run(lambda client: client.set(b"k", b"v"))
        return dict(redis.failures), redis.refusal

    assert with_redis(server.url, use) == ({FailureCause.READONLY: 1}, FailureCause.READONLY)


def test_wrong_password_is_a_cause_of_its_own(server):
    async def use(redis):
        return await cause_of_ping(redis), await cause_of_ping(redis)

    assert with_redis(server.url + "?password=wrong", use) == (FailureCause.AUTH, FailureCause.OPEN)


@contextmanager
def talker(reply, slice_bytes=1000):
    """A socket that answers every client with the same bytes, in slices, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            while self.request.recv(4096):
                for start in range(0, len(reply), slice_bytes):
                    self.request.sendall(reply[start : start + slice_bytes])
                if not reply.endswith(b"\r\n"):
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_loading_server_is_a_cause_of_its_own():
    async def use(redis):
        return await cause_of_ping(redis), await cause_of_ping(redis)

    with talker(b"-LOADING Redis is loading the dataset in memory\r\n" * 3) as url:
        assert with_redis(url, use) == (FailureCause.LOADING, FailureCause.OPEN)


def test_reply_cut_in_the_middle_is_a_lost_connection():
    async def use(redis):
        return [await cause_of_ping(redis) for _ in range(4)]

    with talker(b"+OK\r\n+OK\r\n+PO") as url:
        assert with_redis(url, use) == [FailureCause.LOST] * 3 + [FailureCause.OPEN]


def test_every_failure_is_counted_by_its_cause(tmp_path):
    async def use(redis):
        return [await cause_of_ping(redis), await cause_of_ping(redis)], dict(redis.failures)

    causes, counted = with_redis(f"unix://{tmp_path}/nobody.sock", use)
    assert causes == [FailureCause.REFUSED, FailureCause.OPEN]
    assert counted == {FailureCause.REFUSED: 1, FailureCause.OPEN: 1}


def test_log_holds_one_line_a_second(tmp_path, capsys):
    async def use(redis):
        for _ in range(50):
            await cause_of_ping(redis)

    with_redis(f"unix://{tmp_path}/nobody.sock", use, RedisLimits(open_s=0))
    assert capsys.readouterr().out.count("redis_failed") == 1


def test_rights_that_do_not_go_so_far_are_a_lasting_cause(server):
    async def use(redis):
        rules = ("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+ping")
        await redis.run(lambda client: client.execute_command(*rules))
        reader = RedisClient(f"{server.url}?username=reader&password=secret", "test", PATIENT)
        assert await cause_of_ping(reader) is None
        with pytest.raises(RedisUnavailable):
            await reader.run(lambda client: client.set(b"k", b"v"))
        assert await cause_of_ping(reader) is None
        await reader.close()
        return dict(reader.failures), reader.refusal, reader.is_down

    assert with_redis(server.url, use) == ({FailureCause.PERMISSION: 1}, FailureCause.PERMISSION, False)


def test_a_refused_command_of_a_pipeline_costs_the_others_nothing_and_is_told(server):
    """The one rule for histories, vectors, exposures and feedback: each of them sends pipelines."""

    def fill(pipe):
        pipe.set(b"pipeline", b"text")
        pipe.lrange(b"pipeline", 0, -1)
        pipe.get(b"pipeline")

    async def use(redis):
        replies = await redis.pipeline(fill)
        return replies[0], replies[1].cause, replies[2], dict(redis.failures), redis.is_down

    assert with_redis(server.url, use) == (True, FailureCause.ERROR, b"text", {FailureCause.ERROR: 1}, False)


def test_a_pipeline_without_rights_is_a_lasting_cause(server):
    async def use(redis):
        rules = ("ACL", "SETUSER", "writer", "on", ">secret", "~*", "+@write", "+ping", "-lrange")
        await redis.run(lambda client: client.execute_command(*rules))
        writer = RedisClient(f"{server.url}?username=writer&password=secret", "history", PATIENT)
        kept = await RedisHistory(writer).recent("user")
        await writer.close()
        return kept, writer.refusal

    assert with_redis(server.url, use) == (None, FailureCause.PERMISSION)


def test_a_pipeline_to_nobody_is_one_failure(tmp_path):
    async def use(redis):
        with pytest.raises(RedisUnavailable) as caught:
            await redis.pipeline(lambda pipe: [pipe.get(b"a"), pipe.get(b"b")])
        return caught.value.cause, dict(redis.failures), redis.is_down

    nobody = f"unix://{tmp_path}/nobody.sock"
    assert with_redis(nobody, use) == (FailureCause.REFUSED, {FailureCause.REFUSED: 1}, True)


@pytest.fixture
def cluster_node(tmp_path):
    """The URL of a Redis Cluster of one node."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as probe:
        port = 10_000 + probe.server_address[1] % 40_000  # the cluster's own port is 10,000 above
    options = ("--cluster-enabled", "yes", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path)
    command = [find_server(), *options, "--unixsocket", tmp_path / "socket"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url, deadline = f"unix://{tmp_path}/socket", time.monotonic() + 60
        while with_redis(url, cause_of_ping) is not None:
            assert time.monotonic() < deadline, "the node does not come up"
        with_redis(
            url, lambda redis: redis.run(lambda client: client.execute_command("CLUSTER ADDSLOTS", *range(16384)))
        )
        yield url
        process.terminate()


def test_node_of_a_cluster_is_a_lasting_cause(cluster_node):
    async def use(redis):
        with pytest.raises(RedisUnavailable):
            await redis.run(lambda client: client.mget(b"a", b"b"))
        return dict(redis.failures), redis.refusal

    assert with_redis(cluster_node, use) == ({FailureCause.CLUSTER: 1}, FailureCause.CLUSTER)


def test_wrong_password_is_told_while_the_breaker_is_open(server):
    async def use(redis):
        return await cause_of_ping(redis), await cause_of_ping(redis), redis.refusal

    wrong = (FailureCause.AUTH, FailureCause.OPEN, FailureCause.AUTH)
    assert with_redis(server.url + "?password=wrong", use) == wrong


def test_a_bug_is_no_exception_for_the_caller(server):
    async def broken(client):
        raise TypeError("an argument that it does not take")

    async def use(redis):
        with pytest.raises(RedisUnavailable):
            await redis.run(broken)
        return redis.refusal, await cause_of_ping(redis)

    assert with_redis(server.url, use) == (FailureCause.BUG, None)


@pytest.mark.parametrize(
    "option",
    [
        "ssl_cert_reqs=none",
        "timeout=5",
        "decode_responses=true",
        "socket_timeout=60",
        "protocol=3",
        "max_connections=1",
    ],
)
def test_option_that_would_break_each_request_is_refused_at_start(option):
    with pytest.raises(ConfigurationError, match=f"has the option '{option.split('=')[0]}'"):
        RedisClient(f"redis://localhost/0?{option}", "cache")


@pytest.mark.parametrize(
    "url",
    ["redis://:sEcret1#x@host", "redis://:p@host:sEcret1", "redis://[sEcret1", "sEcret1", "redis://h/0?db=sEcret1"],
)
def test_error_never_quotes_the_password(url):
    with pytest.raises(ConfigurationError) as raised:
        RedisClient(url, "cache")
    assert "sEcret1" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("url", ["rediss://host?ssl_cert_reqs=none", "redis://u:p%23x@host:7/3", "unix:///s?db=2"])
def test_usual_urls_are_taken(url):
    assert RedisClient(url, "cache").refusal is None


def test_unusable_url_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="the Redis URL of the cache role"):
        RedisClient("http://localhost", "cache")


def test_open_breaker_admits_one_probe_at_a_time():
    breaker = CircuitBreaker(open_s=0, max_failures=1)
    breaker.record_failure(opens_at_once=False)
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.release()
    assert breaker.admit()


def test_breaker_counts_failures_in_a_row_only():
    breaker = CircuitBreaker(open_s=9, max_failures=2)
    breaker.record_failure(opens_at_once=False)
    breaker.record_success()
    breaker.record_failure(opens_at_once=False)
    assert not breaker.is_open


def test_failed_probe_keeps_the_breaker_open():
    breaker = CircuitBreaker(open_s=0.05, max_failures=3)
    breaker.record_failure(opens_at_once=True)
    time.sleep(0.06)
    assert breaker.admit()
    breaker.record_failure(opens_at_once=False)
    breaker.release()
    assert not breaker.admit()
