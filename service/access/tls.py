"""The certificate with which the service speaks HTTPS: proven at start, and taken anew where its files change.

A pair of files that cannot be used leaves the one before in force; the log and a metric tell it. Connections that are
open keep what they were opened with. Without these files the service speaks plain HTTP, for a proxy before it.
"""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from uvicorn.config import create_ssl_context

from model.folders.files import Stamp, stamp_of
from service.errors import ConfigurationError
from service.settings import Settings

WATCH_S = 2.0  # between two looks at the files
log = structlog.get_logger()


@dataclass
class CertificateFacts:
    """The facts of a certificate that its metrics tell."""

    expires: datetime
    num_reloaded: int = 0
    num_refused: int = 0

    def take(self, expires: datetime) -> None:
        """Tells of a new pair in force."""
        self.expires = expires
        self.num_reloaded += 1

    def refuse(self) -> None:
        """Tells of files that changed and cannot be used."""
        self.num_refused += 1


class ServerCertificate:
    """The certificate of one process, with its key. Belongs to its event loop."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """client_ca: callers need a certificate that one of these authorities gave.

        Raises ConfigurationError with one sentence for files that cannot be used.
        """
        self._certificate, self._key = certificate, key
        self._mark = self._stamp()
        self.context = make_context(certificate, key, client_ca)
        self.facts = CertificateFacts(expiry_of(certificate))
        if self.facts.expires < datetime.now(UTC):
            log.warning("tls_certificate_expired", file=str(certificate), expired=self.facts.expires.isoformat())

    def look(self) -> None:
        """Takes the files anew where they changed."""
        mark = self._stamp()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            # tried apart: half a pair in the context of the service would be in force
            make_context(self._certificate, self._key)
            expires = expiry_of(self._certificate)
            self.context.load_cert_chain(self._certificate, self._key)
        except (ConfigurationError, OSError) as error:
            self.facts.refuse()
            log.error("tls_certificate_refused", error=str(error))
            return
        self.facts.take(expires)
        log.info("tls_certificate_reloaded", expires=expires.isoformat())

    async def watch(self) -> None:
        """Looks now and then until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            # two small files; the context that they change is the event loop's own
            self.look()

    def _stamp(self) -> tuple[Stamp | None, ...]:
        """The mark by which another file is known, of both; None for one that is not there."""
        return tuple(stamp_of(path) for path in (self._certificate, self._key))


def open_certificate(settings: Settings) -> ServerCertificate | None:
    """The certificate of these settings; None for plain HTTP. Raises ConfigurationError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerCertificate(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def make_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """The side of the server, TLS 1.2 and 1.3. Raises ConfigurationError, one sentence that names the file."""
    for path in filter(None, (certificate, key, client_ca)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"the TLS file {path} cannot be read: {error.strerror}") from error
    try:
        serialization.load_pem_private_key(key.read_bytes(), None)
    except TypeError as error:
        # OpenSSL would ask for it at the terminal
        raise ConfigurationError(f"the TLS key {key} has a password; the service takes a key without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{key} is no key in PEM of a kind that can be used") from error
    expiry_of(certificate)
    needed = ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE
    try:
        return create_ssl_context(certificate, key, None, ssl.PROTOCOL_TLS_SERVER, needed, client_ca, None)
    except ssl.SSLError as error:
        mismatch = "MISMATCH" in str(error)
        said = f"{certificate} and {key} do not belong together"
        raise ConfigurationError(said if mismatch else f"a TLS file cannot be used: {error.reason}") from error


def expiry_of(certificate: Path) -> datetime:
    """The end of a certificate's life, of the first in the file. Raises ConfigurationError."""
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError(f"{certificate} is no certificate in PEM") from error


class CertificateCollector(Collector):
    """The metrics of a certificate: alert on the time at which it ends."""

    def __init__(self, facts: CertificateFacts) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "recall_tls_certificate_expires_seconds",
            "End of the certificate's life, seconds since 1970",
            value=self._facts.expires.timestamp(),
        )
        loads = CounterMetricFamily("recall_tls_certificate_loads", "Changed files by result", labels=["result"])
        loads.add_metric(["reloaded"], self._facts.num_reloaded)
        loads.add_metric(["refused"], self._facts.num_refused)
        yield loads
