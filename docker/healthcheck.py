"""The container's health check: exit status 0 when GET /health answers 200. The image has no curl."""

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

TIMEOUT_S = 2.5
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (listens everywhere: asked here)


def main() -> None:
    command = first_command()
    try:
        connection = connect(command, os.environ)
        connection.request("GET", "/health")
        reply = connection.getresponse()
    except (OSError, HTTPException) as error:
        sys.exit(f"no answer: {error!r}")
    if reply.status != 200:
        sys.exit(f"{reply.status}: {reply.read(500).decode(errors='replace')}")


def connect(command: Sequence[str], environment: Mapping[str, str]) -> HTTPConnection:
    """By HTTPS where the service has a certificate, which names another host than the one asked here."""
    where, certificate = address(command, environment), option("--tls-cert", command, environment)
    if not certificate:
        return HTTPConnection(*where, timeout=TIMEOUT_S)
    context = ssl._create_unverified_context()  # noqa: S323  (this container's own port, on the loopback)
    # a service that asks its callers for certificates takes its own where the same authority gave it
    context.load_cert_chain(certificate, option("--tls-key", command, environment) or None)
    return HTTPSConnection(*where, timeout=TIMEOUT_S, context=context)


def first_command() -> list[str]:
    """The words of the container's first process: the service's own, or of the init that was given them."""
    try:
        return Path("/proc/1/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def address(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the service: its options, else its variables, else the defaults."""
    host = option("--host", command, environment).strip("[]") or "127.0.0.1"
    return ANYWHERE.get(host, host), int(option("--port", command, environment) or 8080)


def option(wanted: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The value of an option of the service: the last one given, else its variable's; empty where there is none."""
    given = environment.get(f"RECALL_{wanted.strip('-').replace('-', '_').upper()}", "")
    for word, following in zip(command, [*command, ""][1:], strict=True):
        name, is_joined, value = word.partition("=")
        if name == wanted:
            given = value if is_joined else following
    return given


if __name__ == "__main__":
    main()
