"""HTTPS with certificates of our own, in both process layouts: requests, refused files, and another certificate."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from recall.bench.stages import scrape
from recall.bench.target import Target
from recall.bench.traffic import Load
from recall.bench.trials import send
from service.access.tls import CertificateCollector, ServerCertificate
from service.errors import ConfigurationError
from service.http.server import PatientLoop
from tests.service.stores.redis_servers import make_certificates
from tests.waiting import wait_for

LIMIT_S = 60
ADMIN_KEY = "only-for-tests"
HEALTHCHECK = Path(__file__).parents[3] / "docker" / "healthcheck.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


@dataclass(frozen=True)
class Running:
    """A service, and its files."""

    url: str
    pair: dict[str, Path]


@pytest.fixture(scope="module", params=["one process", "two HTTP processes"])
def served(request, launch, arm_options, files, tmp_path_factory):
    """The service over HTTPS, whose callers of this process know the authority."""
    folder = tmp_path_factory.mktemp("served")
    pair = {name: Path(shutil.copy(getattr(files, name), folder / name)) for name in ("certificate", "key")}
    layout = ("--redis-url", "memory") if request.param == "one process" else ("--http-workers", "2")
    options = ("--tls-cert", pair["certificate"], "--tls-key", pair["key"], "--admin-key", ADMIN_KEY, *layout)
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(files.authority)
    try:
        with launch(*arm_options, *map(str, options), "--request-timeout-ms", "30000") as running:
            yield Running(running.url, pair)
    finally:
        del os.environ["SSL_CERT_FILE"]
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before


def test_requests_are_answered_and_the_address_says_https(served):
    assert served.url.startswith("https://127.0.0.1:")
    reply = httpx.post(f"{served.url}/recall/recgpt", json={"history": [], "top_n": 5}, timeout=LIMIT_S)
    assert (reply.status_code, len(reply.json()["items"])) == (200, 5)


def test_plain_http_is_not_spoken(served):
    with pytest.raises(httpx.HTTPError):
        httpx.get(served.url.replace("https:", "http:") + "/health", timeout=LIMIT_S)


def test_who_does_not_know_the_authority_does_not_believe(served, tmp_path):
    others = ssl.create_default_context(cafile=make_certificates(tmp_path).authority)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{served.url}/health", verify=others, timeout=LIMIT_S)


def test_old_versions_of_tls_are_refused(served):
    context = unbelieving()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    where = urlsplit(served.url)
    with (
        socket.create_connection((where.hostname, where.port), timeout=LIMIT_S) as connection,
        pytest.raises(OSError, match=r"(?i)version|protocol|alert|cipher|EOF"),
    ):
        context.wrap_socket(connection)


def test_the_commands_speak_it_with_the_authority(served, files, run_recall):
    asked = run_recall("query", "--url", served.url, "--ca", files.authority, "--top-n", 3)
    assert (asked.status, asked.err) == (0, "")
    doubted = run_recall("query", "--url", served.url, "--ca", __file__)
    assert doubted.status != 0
    assert "cannot be used" in doubted.err
    options = ("--url", served.url, "--ca", files.authority, "--admin-key", ADMIN_KEY)
    reloaded = run_recall("reload", "recgpt", *options)
    assert json.loads(reloaded.out.splitlines()[-1])["reloaded"][0]["changed"] is False


def test_the_load_generator_speaks_it(served, files):
    target = Target(served.url, ca=files.authority)
    load = Load(
        host=target.host,
        port=target.port,
        is_tls=True,
        ca=str(files.authority),
        path="/recall/recgpt",
        rate=30,
        seconds=0.5,
        warmup_s=0.1,
    )
    measured = send(load)
    assert (measured.statuses.keys(), measured.lost) == ({"200"}, 0)
    assert any(name == "recall_tls_certificate_expires_seconds" for name, _ in scrape(target))


def test_the_health_check_speaks_it(served, files):
    environment = {
        "RECALL_PORT": str(urlsplit(served.url).port),
        **{"RECALL_TLS_CERT": str(files.certificate), "RECALL_TLS_KEY": str(files.key)},
    }
    ended = subprocess.run([sys.executable, HEALTHCHECK], check=False, env=environment, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_another_certificate_is_taken_while_it_runs(served, files, tmp_path):
    """Last of those that ask this service: whoever asks it afterwards has to know another authority."""
    other, where = make_certificates(tmp_path / "other"), urlsplit(served.url)
    for name in ("certificate", "key"):
        coming = served.pair[name].with_suffix(".new")
        shutil.copy(getattr(other, name), coming)
        coming.replace(served.pair[name])
    new = ssl.create_default_context(cafile=other.authority)

    def is_new():
        with (
            socket.create_connection((where.hostname, where.port), timeout=LIMIT_S) as connection,
            new.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
        ):
            return secured.version()

    # of both processes, one of which the system chooses for each connection
    for _ in range(12):
        assert wait_for(is_new, passing=[OSError])


@pytest.fixture
def pair(files, tmp_path):
    """A certificate and its key, to be changed."""
    return [Path(shutil.copy(path, tmp_path / path.name)) for path in (files.certificate, files.key)]


def unbelieving():
    """A client that takes any certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return client


def shake(context, client):
    """The client's end after a handshake in memory; raises what either end says."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0]


def serial_of(context):
    """The number of the certificate that a server with this context shows."""
    shown = shake(context, unbelieving()).getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


def test_a_new_pair_is_taken_and_a_broken_one_leaves_the_old(pair, tmp_path):
    certificate, key = pair
    ours = ServerCertificate(certificate, key)
    first = serial_of(ours.context)
    other = make_certificates(tmp_path / "other")
    # the key is not there yet: between the two the pair does not fit
    shutil.copy(other.certificate, certificate)
    ours.look()
    assert (ours.facts.num_refused, serial_of(ours.context)) == (1, first)
    shutil.copy(other.key, key)
    ours.look()
    ours.look()
    second = serial_of(ours.context)
    assert second == x509.load_pem_x509_certificate(other.certificate.read_bytes()).serial_number != first
    certificate.unlink()
    ours.look()
    assert serial_of(ours.context) == second
    values = {
        sample.name: sample.value for metric in CertificateCollector(ours.facts).collect() for sample in metric.samples
    }
    assert values["recall_tls_certificate_expires_seconds"] == ours.facts.expires.timestamp()
    assert (ours.facts.num_reloaded, ours.facts.num_refused) == (1, 2)


def locked(key):
    """The same key behind a password."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    form, lock = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, lock))


# PKCS 8 with an object id, 1.2.3.4, that is no kind of key
OTHER_KIND = ssl.DER_cert_to_PEM_cert(bytes.fromhex("300f020100300706032a03040500040100")).replace(
    "CERTIFICATE", "PRIVATE KEY"
)
SPOILT = {
    "cannot be read: No such file": lambda certificate, key: key.unlink(),
    "is no certificate in PEM": lambda certificate, key: certificate.write_text("none"),
    "is no key in PEM": lambda certificate, key: key.write_text("none"),
    "of a kind that can be used": lambda certificate, key: key.write_text(OTHER_KIND),
    "has a password": lambda certificate, key: locked(key),
    "do not belong together": lambda certificate, key: shutil.copy(make_certificates(key.parent / "other").key, key),
}


@pytest.mark.parametrize("sentence", SPOILT)
def test_files_that_cannot_be_used_are_one_sentence(pair, sentence):
    SPOILT[sentence](*pair)
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        ServerCertificate(*pair)
    assert "\n" not in str(refused.value)


def test_a_connection_that_is_closed_does_not_wait_for_a_client_that_is_idle(pair):
    async def main():
        lost = asyncio.get_running_loop().create_future()

        class Closing(asyncio.Protocol):
            def connection_made(self, transport):
                transport.close()

            def connection_lost(self, _):
                lost.set_result(None)

        server = await asyncio.get_running_loop().create_server(
            Closing, "127.0.0.1", 0, ssl=ServerCertificate(*pair).context
        )
        async with server:
            # shakes hands and reads nothing: the end of TLS is never answered
            with socket.create_connection(server.sockets[0].getsockname()) as raw:
                trusting = ssl._create_unverified_context()
                client = await asyncio.to_thread(trusting.wrap_socket, raw)
                # uvloop's own limit is 30 s
                await asyncio.wait_for(lost, 20)
                client.close()

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        runner.run(main())


def test_authorities_that_are_none_are_one_sentence(pair):
    with pytest.raises(ConfigurationError, match="a TLS file cannot be used: NO_CERTIFICATE_OR_CRL_FOUND"):
        ServerCertificate(*pair, client_ca=pair[1])


def test_a_service_with_bad_files_does_not_start(run_recall, arm_options, files):
    ended = run_recall("serve", *arm_options, "--tls-cert", files.key, "--tls-key", files.key)
    assert ended.status == 2
    assert "is no certificate in PEM" in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    alone = run_recall("serve", *arm_options, "--tls-cert", files.certificate)
    assert "tls_cert and tls_key are given together" in " ".join(alone.err.split())


def test_callers_need_a_certificate_where_the_service_wants_one(pair, files):
    ours = ServerCertificate(*pair, client_ca=files.authority)
    with pytest.raises(ssl.SSLError, match=r"(?i)peer_did_not_return_a_certificate"):
        shake(ours.context, unbelieving())
    client = unbelieving()
    client.load_cert_chain(*pair)
    assert shake(ours.context, client).version() == "TLSv1.3"
    # what was asked of callers is asked after a new pair too
    os.utime(pair[0], ns=(1, 1))
    ours.look()
    assert ours.facts.num_reloaded == 1
    with pytest.raises(ssl.SSLError):
        shake(ours.context, unbelieving())
