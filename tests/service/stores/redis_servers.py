"""Real redis-servers in each way in which one is run: alone, behind TLS, with users, under Sentinels, as a Cluster."""

import random
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.stores.embedded_redis import find_server
from tests.waiting import wait_for


@dataclass(frozen=True)
class Server:
    """A running redis-server."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def connection(self, **access):
        return redis.Redis(port=self.port, socket_timeout=5, decode_responses=True, **access)

    def ask(self, *words, **access):
        with self.connection(**access) as client:
            return client.execute_command(*words)


def free_port():
    """A port that nobody has, nor the one 10,000 above it, which a node of a Cluster takes too."""
    while True:
        port = random.randrange(20_000, 45_000)
        with suppress(OSError), socket.socket() as own, socket.socket() as bus:
            own.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def wait_until(holds):
    """Waits for servers that come up: until then they refuse connections, or commands."""
    wait_for(holds, passing=(redis.RedisError, OSError))


@contextmanager
def running(folder: Path, *options, access=None, config=None):
    """A redis-server of these options; `access`: by which it may be asked whether it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # a Sentinel writes its file anew, so that it has one of its own
    files = [config] if config else []
    settings = ("--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, *options)
    command = [str(word) for word in (find_server(), *files, *settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        server = Server(port, process)
        try:
            wait_until(lambda: server.ask("PING", **(access or {})))
            yield server
        finally:
            process.kill()


@contextmanager
def under_sentinels(folder: Path, num_sentinels=2):
    """(URL, {"master", "replica"}): users with passwords, Sentinels with one of their own."""
    users = ("--requirepass", "root", "--masterauth", "root", "--user", "app", "on", ">s%cret", "~*", "&*", "+@all")
    root = {"password": "root"}
    with ExitStack() as stack:
        master = stack.enter_context(running(folder / "master", *users, access=root))
        follow = ("--replicaof", "127.0.0.1", master.port)
        replica = stack.enter_context(running(folder / "replica", *users, *follow, access=root))
        wait_until(lambda: replica.ask("INFO", "replication", **root)["master_link_status"] == "up")
        sentinels = []
        for number in range(num_sentinels):
            own = folder / f"sentinel{number}"
            own.mkdir()
            config = own / "sentinel.conf"
            config.write_text(
                f"sentinel monitor feed 127.0.0.1 {master.port} 1\n"
                "sentinel auth-pass feed root\n"
                "sentinel down-after-milliseconds feed 500\nsentinel failover-timeout feed 2000\n"
                "requirepass watch\n"
            )
            started = running(own, "--sentinel", access={"password": "watch"}, config=config)
            sentinels.append(stack.enter_context(started))
        wait_until(
            lambda: all(
                int(s.ask("SENTINEL", "MASTER", "feed", password="watch")["num-slaves"]) == 1 for s in sentinels
            )
        )
        # the first named is not there: the next one answers
        nodes = ",".join(["127.0.0.1:1", *(sentinel.address for sentinel in sentinels)])
        url = f"redis+sentinel://app:s%25cret@{nodes}/feed/0?sentinel_password=watch"
        yield url, {"master": master, "replica": replica}


@contextmanager
def cluster(folder: Path, num_nodes=3):
    """(URL, nodes): masters that share the slots."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "no")
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(folder / f"node{number}", *options)) for number in range(num_nodes)]
        edges = [16384 * number // num_nodes for number in range(num_nodes + 1)]
        for node, first, end in zip(nodes, edges, edges[1:], strict=False):
            node.ask("CLUSTER ADDSLOTS", *range(first, end))
            nodes[0].ask("CLUSTER MEET", "127.0.0.1", node.port)
        wait_until(lambda: all(node.ask("CLUSTER INFO")["cluster_state"] == "ok" for node in nodes))
        wait_until(lambda: all(len(node.ask("CLUSTER SLOTS")) == num_nodes for node in nodes))
        yield f"redis+cluster://{','.join(node.address for node in nodes)}", nodes


@dataclass(frozen=True)
class Certificates:
    """An authority of our own, and the files of a certificate that it gave to this machine."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, host="localhost", address="127.0.0.1") -> Certificates:
    folder.mkdir(parents=True, exist_ok=True)
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority for tests")])
    now = datetime.now(UTC)

    def sign(subject, public, *extensions):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(root, hashes.SHA256())

    identifier = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    authority = sign(
        issuer,
        root.public_key(),
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (identifier, False),
        (usage, True),
    )
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ip_address(address))])
    chain = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    certificate = sign(subject, own.public_key(), (names, False), (chain, False))
    files = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@contextmanager
def tls_before(server: Server, files: Certificates):
    """The port of a TLS end before a server that speaks none: what stunnel is for such a one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept_all, args=(listener, context, server.port), daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        # a thread in accept() is not woken by close
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(5)


def accept_all(listener, context, port):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=relay, args=(connection, context, port), daemon=True).start()


def relay(connection, context, port):
    with (
        suppress(OSError),
        connection,
        context.wrap_socket(connection, server_side=True) as outside,
        socket.create_connection(("127.0.0.1", port)) as inside,
    ):
        threading.Thread(target=copy, args=(inside, outside), daemon=True).start()
        copy(outside, inside)


def copy(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
