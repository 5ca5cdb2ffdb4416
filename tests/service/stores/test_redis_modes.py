"""Every way in which a Redis is run, with real servers: all that is kept there works, and a refusal is named."""

import asyncio
import time
from functools import partial

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from model.records import History
from service.catalogue.changes import DeleteItem
from service.catalogue.log import RedisCatalogueLog
from service.consumer.process import open_consumer
from service.errors import ConfigurationError, EventsRefused
from service.events.fullness import FullnessWatch
from service.events.outbox import Outbox
from service.events.streams import EXPOSURES, FEEDBACK
from service.experiments.feedback import Action, FeedbackEvent, RedisFeedback
from service.stores.hiders import CHANNEL, Hiders
from service.stores.history import RedisHistory
from service.stores.redis_causes import FailureCause
from service.stores.redis_client import RedisClient, RedisLimits, RedisUnavailable
from service.stores.redis_urls import Mode, parse_address
from service.stores.vector_cache import RedisVectorCache
from service.stores.vector_codec import CachedVectors, cache_key
from tests.service.stores import redis_servers as servers
from tests.waiting import until

PATIENT = RedisLimits(timeout_ms=20_000)  # a shared machine; a bound is its own test's business
LIMIT_S = 60
NUM_USERS = 20
MODES = ("unix", "acl", "tls", "sentinel", "cluster")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A server with a socket and a user who has the rights that docs/deployment.md names."""
    folder = tmp_path_factory.mktemp("plain")
    rights = ["-@all", "+@read", "+@write", "+@scripting", "+@transaction", "+@connection", "+select", "+info"]
    user = ("--user", "app", "on", ">s%cret", "~*", "resetchannels", "&recall:*", *rights, "+@pubsub")
    mute = ("--user", "mute", "on", ">mute", "~*", "resetchannels", *rights)
    limited = ("--user", "reader", "on", ">read", "~*", "&*", "+@read", "+ping")
    with servers.running(folder, "--unixsocket", folder / "redis.sock", *user, *mute, *limited) as server:
        yield server, folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return servers.make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_port(plain, certificates):
    with servers.tls_before(plain[0], certificates) as port:
        yield port


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory):
    with servers.under_sentinels(tmp_path_factory.mktemp("sentinels")) as (url, nodes):
        yield url, nodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with servers.cluster(tmp_path_factory.mktemp("cluster")) as (url, nodes):
        yield url, nodes


@pytest.fixture(scope="module", params=MODES)
def url(request, plain, tls_port, certificates):
    server, folder = plain
    match request.param:
        case "unix":
            return f"unix://{folder}/redis.sock?db=3"
        case "acl":
            return f"redis://app:s%25cret@{server.address}/1"
        case "tls":
            return f"rediss://app:s%25cret@localhost:{tls_port}/2?ssl_ca_certs={certificates.authority}"
        case _:
            return request.getfixturevalue({"sentinel": "sentinels", "cluster": "cluster"}[request.param])[0]


def run(use):
    return asyncio.run(asyncio.wait_for(use(), LIMIT_S))


def with_client(url, use, role="test", limits=PATIENT):
    async def main():
        client = RedisClient(url, role, limits)
        try:
            return await use(client)
        finally:
            await client.close()

    return run(main)


def event(user, item, action=Action.PLAY, **more):
    return FeedbackEvent(user=user, item=item, action=action, ts_ms=1, event_id=f"{user}-{item}-{action}", **more)


def test_feedback_is_kept_once_with_its_histories(url):
    """The script that CROSSSLOT refuses where its keys lie apart."""
    users = [f"u{{{n}}}" for n in range(NUM_USERS)]

    async def use(client):
        feedback, history = RedisFeedback(client), RedisHistory(client)
        first = await asyncio.gather(*(feedback.keep(event(user, n)) for n, user in enumerate(users)))
        again = await asyncio.gather(*(feedback.keep(event(user, n)) for n, user in enumerate(users)))
        await feedback.keep(event(users[0], 99, Action.HIDE))
        kept = [await history.recent(user) for user in users]
        page = await feedback.events.read()
        return set(first), set(again), kept, await history.hidden(users[:2]), len(page.events), dict(client.failures)

    assert with_client(url, use) == ({True}, {False}, [[n] for n in range(NUM_USERS)], [[99], []], NUM_USERS + 1, {})


def test_who_hides_is_heard_of(url):
    """In a Cluster, and by a user without the channel, everybody may have hidden something."""

    async def use(client):
        hiders = Hiders(client)
        following = asyncio.create_task(hiders.follow())
        feedback = RedisFeedback(client)
        if client.is_cluster:
            # nothing can be followed: it ends by itself
            await following
        else:
            await until(lambda: not hiders.may_contain("nobody"))
        await feedback.keep(event("hides", 1, Action.HIDE))
        await until(lambda: hiders.may_contain("hides"))
        anybody = hiders.may_contain("nobody")
        following.cancel()
        await asyncio.wait([following])
        return anybody, dict(client.failures)

    assert with_client(url, use) == ("+cluster" in url, {})


def test_a_user_without_the_channel_keeps_hides_and_reads_everybody(plain):
    async def use(client):
        hiders = Hiders(client)
        following = asyncio.create_task(hiders.follow())
        await RedisFeedback(client, hiders=hiders).keep(event("mute", 1, Action.HIDE))
        with pytest.raises(RedisUnavailable) as refused:
            await anext(client.listen(CHANNEL))
        # until its own follower is refused too, nobody knows anything
        await until(lambda: any(line["event"] == "hiders_unknown" for line in told))
        following.cancel()
        await asyncio.wait([following])
        hidden = await RedisHistory(client, hiders=hiders).hidden(["mute"])
        return refused.value.cause, hidden, hiders.may_contain("nobody")

    with capture_logs() as told:
        outcome = with_client(f"redis://mute:mute@{plain[0].address}", use)
    assert outcome == (FailureCause.PERMISSION, [[1]], True)
    assert {line["cause"] for line in told if line["event"] == "hiders_unknown"} == {"permission"}


def test_vectors_come_back(url):
    keys = [cache_key("bundle", "plan", History((n + 1,))) for n in range(NUM_USERS)]
    vectors = [CachedVectors(np.full((1, 4), n + 1, np.float32), np.array([n])) for n in range(NUM_USERS)]

    async def use(client):
        cache = RedisVectorCache(client)
        cache.put_many(list(zip(keys, vectors, strict=True)))
        await cache.flush()
        back = await cache.get_many([*keys, cache_key("bundle", "plan", History((999,)))])
        return [None if value is None else float(value.vectors[0, 0]) for value in back], dict(client.failures)

    assert with_client(url, use) == ([*map(float, range(1, NUM_USERS + 1)), None], {})


def test_exposures_are_written_and_consumed(url, tmp_path):
    async def use(client):
        outbox = Outbox(client)
        for n in range(NUM_USERS):
            outbox.put(EXPOSURES, b"%d" % n)
        await outbox.close()
        watch = FullnessWatch(client, (EXPOSURES, FEEDBACK), 1 << 20)
        await watch.measure()
        return outbox.written, [level.num_bytes > 0 for level in watch.levels][:1], dict(client.failures)

    assert with_client(url, use) == (NUM_USERS, [True], {})
    with open_consumer(url, tmp_path) as consumer:
        consumer.run_once()
        assert consumer.run_once()["exposures"] == 0
    # numbers are no exposures: each is read, and buried
    assert len([*(tmp_path / "dead").rglob("*")]) > 0


def test_changes_of_the_catalogue_are_numbered(url):
    async def use(client):
        log = RedisCatalogueLog(client, client)
        numbers = await log.append([DeleteItem(n) for n in range(3)])
        return numbers, [number for number, _ in await log.read()], [*await log.read()]

    first, read, rest = with_client(url, use)
    assert (first, read, rest) == ([first[0], first[0] + 1, first[0] + 2], first, [])


# --- what is refused


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (("s%25cret", "wrong"), FailureCause.AUTH),
        (("app:s%25cret@", ""), FailureCause.AUTH),
        (("sentinel_password=watch", "sentinel_password=no"), FailureCause.AUTH),
        (("?sentinel_password=watch", ""), FailureCause.AUTH),
        (("/feed/", "/other/"), FailureCause.NO_MASTER),
    ],
)
def test_a_wrong_word_to_sentinels_is_named(sentinels, change, cause):
    async def use(client):
        with pytest.raises(RedisUnavailable) as refused:
            await client.run(lambda redis: redis.ping())
        return refused.value.cause, client.is_down

    assert with_client(sentinels[0].replace(*change), use) == (cause, True)


def tls_url(port, **options):
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"rediss://app:s%25cret@localhost:{port}/2?{query}"


def test_a_certificate_of_nobody_known_is_a_lasting_cause(tls_port):
    async def use(client):
        with pytest.raises(RedisUnavailable) as refused:
            await client.run(lambda redis: redis.ping())
        return refused.value.cause, client.refusal

    assert with_client(tls_url(tls_port), use) == (FailureCause.TLS, FailureCause.TLS)


def test_a_certificate_of_another_host_is_a_lasting_cause(plain, tmp_path):
    files = servers.make_certificates(tmp_path, host="elsewhere", address="10.0.0.1")

    async def use(client):
        with pytest.raises(RedisUnavailable):
            await client.run(lambda redis: redis.ping())
        return client.refusal

    with servers.tls_before(plain[0], files) as port:
        assert with_client(tls_url(port, ssl_ca_certs=files.authority), use) == FailureCause.TLS


def test_a_user_without_rights_is_told_that_sending_again_does_not_help(plain):
    async def use(client):
        with pytest.raises(EventsRefused, match="permission"):
            await RedisFeedback(client).keep(event("user", 1))
        return client.refusal

    assert with_client(f"redis://reader:read@{plain[0].address}", use) == FailureCause.PERMISSION


def test_a_cluster_by_the_url_of_a_server_is_a_lasting_cause(cluster):
    async def use(client):
        with pytest.raises(EventsRefused, match="cluster"):
            await RedisFeedback(client).keep(event("user", 1))
        return client.refusal

    assert with_client(f"redis://{cluster[1][0].address}", use) == FailureCause.CLUSTER


def test_a_server_by_the_url_of_a_cluster_is_a_lasting_cause(plain):
    async def use(client):
        with pytest.raises(RedisUnavailable):
            await client.run(lambda redis: redis.ping())
        return client.refusal

    assert with_client(f"redis+cluster://{plain[0].address}", use) == FailureCause.CLUSTER


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1/feed", "redis+cluster://127.0.0.1:1"])
def test_nobody_at_all_is_down_and_may_come_back(url):
    async def use(client):
        with pytest.raises(RedisUnavailable) as refused:
            await client.run(lambda redis: redis.ping())
        return refused.value.cause in (FailureCause.NO_MASTER, FailureCause.REFUSED), client.is_down, client.refusal

    assert with_client(url, use) == (True, True, None)


# --- what comes back


def ask_until_answered(client, limit_s=LIMIT_S):
    """Asks until an answer comes; returns the causes until then."""

    async def ask():
        causes, deadline = [], time.monotonic() + limit_s
        while True:
            try:
                await client.run(lambda redis: redis.set(b"key", b"value"))
                return causes
            except RedisUnavailable as error:
                causes.append(error.cause)
                assert time.monotonic() < deadline, causes[-5:]
                await asyncio.sleep(0.05)

    return ask()


def test_another_master_is_found(tmp_path):
    with servers.under_sentinels(tmp_path, num_sentinels=1) as (url, nodes):

        async def use(client):
            assert await ask_until_answered(client) == []
            nodes["master"].process.kill()
            causes = await ask_until_answered(client)
            return causes != [], client.is_down, client.refusal

        assert with_client(url, use) == (True, False, None)
        assert nodes["replica"].ask("GET", "key", password="root") == "value"


def test_slots_that_moved_are_found(tmp_path):
    """A node of a Cluster is gone with its slots; another takes them, as after a failover."""
    with servers.cluster(tmp_path) as (url, nodes):
        [owner] = filter(owns, nodes)

        async def use(client):
            assert await ask_until_answered(client) == []
            owner.process.kill()
            with pytest.raises(RedisUnavailable):
                await client.run(lambda redis: redis.set(b"key", b"value"))
            take_over(owner, [node for node in nodes if node is not owner])
            await ask_until_answered(client)
            return client.is_down, client.refusal

        assert with_client(url, use) == (False, None)


def owns(node):
    """Says whether a node has the slot of `key`."""
    slot = node.ask("CLUSTER KEYSLOT", "key")
    return any(first <= slot <= last for first, last in ranges(node, node.port))


def ranges(node, port):
    """The slots that the node at `port` has, as another node knows it."""
    return [(first, last) for first, last, (_, owner, *_), *_ in node.ask("CLUSTER SLOTS") if owner == port]


def take_over(gone, left):
    """Gives the slots of a node that is gone to the first of those that are left."""
    [(first, last)] = ranges(left[0], gone.port)
    heir = left[0].ask("CLUSTER MYID")
    for node in left:
        with node.connection() as client, client.pipeline(transaction=False) as pipe:
            for slot in range(first, last + 1):
                pipe.execute_command("CLUSTER SETSLOT", slot, "NODE", heir)
            pipe.execute()


def test_a_late_answer_is_never_taken_for_the_next_one(cluster):
    """Calls that are given up in the middle leave no reply behind for those who come next."""
    url, nodes = cluster

    async def use(client):
        wrong = num_late = 0
        for n in range(300):
            if n % 60 == 30:
                for node in nodes:
                    node.ask("CLIENT", "PAUSE", 60)
            try:
                replies = await client.pipeline(partial(ask_for, b"%d" % n))
            except RedisUnavailable:
                num_late += 1
                await asyncio.sleep(0.02)
                continue
            wrong += any(not isinstance(reply, RedisUnavailable) and reply != b"%d" % n for reply in replies)
        return wrong, num_late > 0

    assert with_client(url, use, limits=RedisLimits(timeout_ms=30, open_s=0.01)) == (0, True)


def ask_for(word, pipe):
    """Six replies that repeat a word, from different nodes."""
    for number in range(6):
        pipe.eval("return ARGV[1]", 1, f"key{number}", word)


# --- the URL


@pytest.mark.parametrize(
    ("url", "nodes", "service"),
    [
        ("redis+sentinel://a,b:7/feed", (("a", 26379), ("b", 7)), "feed"),
        ("redis+sentinel://u:p@[::1]:5,b/feed/3", (("::1", 5), ("b", 26379)), "feed"),
        ("rediss+cluster://:p%40@a,b:7", (("a", 6379), ("b", 7)), ""),
    ],
)
def test_nodes_of_a_url(url, nodes, service):
    address = parse_address(url, "cache")
    assert (address.nodes, address.service) == (nodes, service)
    assert address.options["ssl"] is url.startswith("rediss")


def test_access_and_database_of_a_url():
    options = parse_address("redis+sentinel://u:p%40%23@a,b/feed/3?client_name=x", "cache").options
    assert options == {"username": "u", "password": "p@#", "db": 3, "client_name": "x", "ssl": False}
    assert parse_address("redis://a", "cache").mode is Mode.SERVER


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://s3cret:x@a",
        "redis+sentinel://:s3cret@a/",
        "redis+sentinel://:s3cret@/feed",
        "redis+sentinel://:s3cret@a,/feed",
        "redis+sentinel://:s3cret@a:port/feed",
        "redis+sentinel://:s3cret@a/feed/zero",
        "redis+cluster://:s3cret@a/feed",
        "redis+cluster://:s3cret@a/0",
        "redis+cluster://:s3cret@a?db=1",
        "redis+cluster://:s3cret@a?sentinel_password=1",
        "redis+cluster://:s3cret@a?ssl_ca_certs=x",
        "redis+nothing://:s3cret@a",
        "unix+sentinel://:s3cret@a/feed",
    ],
)
def test_what_is_no_address_is_refused_without_a_word_of_it(url):
    with pytest.raises(ConfigurationError, match="the Redis URL of the cache role is unusable") as refused:
        RedisClient(url, "cache")
    assert "s3cret" not in str(refused.value)


SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "http")
HOSTS = ("a", "a,b:7", ":6379", "u:p@a", "[::1]:5,b", "[", "@", ",", "")
PATHS = ("", "/", "/0", "/feed", "/feed/3", "//", "/x/y/z")
QUERIES = ("", "?", "?db=1", "?db=x", "?ssl_ca_certs=x", "?sentinel_password=s", "?a=b&a=b", "#x")
pieces = st.tuples(*(st.sampled_from(words) | st.text(max_size=6) for words in (HOSTS, PATHS, QUERIES)))


@given(st.builds(lambda scheme, rest: f"{scheme}://{''.join(rest)}", st.sampled_from(SCHEMES), pieces))
@settings(max_examples=300)
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_address(text, "cache")
    except ConfigurationError:
        return
    assert address.options["ssl"] is text.startswith("rediss")
    assert (address.mode is Mode.SERVER) != bool(address.nodes)


# --- the whole service


@pytest.mark.parametrize("mode", ["sentinels", "cluster"])
def test_a_service_keeps_everything_there(request, launch, arm_options, mode):
    url, _ = request.getfixturevalue(mode)
    patient = ("--redis-timeout-ms", "5000", "--events-timeout-ms", "5000", "--request-timeout-ms", "30000")
    with launch(*arm_options, *patient, RECALL_REDIS_URL=url) as served, httpx.Client(base_url=served.url) as client:
        seen = {"user_id": f"viewer-{mode}", "item_id": 10001, "action": "play", "event_id": "1"}
        assert client.post("/feedback", json=seen).json()["duplicate"] is False
        assert client.post("/feedback", json=seen).json()["duplicate"] is True
        answer = client.post("/recall", json={"user_id": f"viewer-{mode}"}).json()
        assert answer["degraded"] == []
        assert 10001 not in answer["items"]
        assert client.get("/ready").json()["degraded"] == []
        assert "watch" not in served.log.read_text()
