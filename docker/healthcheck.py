"""The container's health check: exit status 0 when GET /health answers 200. The image has no curl."""

import os
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

TIMEOUT_S = 2.5
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (listens everywhere: asked here)


def main() -> None:
    connection = HTTPConnection(*address(first_command(), os.environ), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        reply = connection.getresponse()
    except (OSError, HTTPException) as error:
        sys.exit(f"no answer: {error!r}")
    if reply.status != 200:
        sys.exit(f"{reply.status}: {reply.read(500).decode(errors='replace')}")


def first_command() -> list[str]:
    """The words of the container's first process: the service's own, or of the init that was given them."""
    try:
        return Path("/proc/1/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def address(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the service: its options, else its variables, else the defaults."""
    given = {"--host": environment.get("RECALL_HOST", ""), "--port": environment.get("RECALL_PORT", "")}
    for word, following in zip(command, [*command, ""][1:], strict=True):
        name, is_joined, value = word.partition("=")
        if name in given:
            given[name] = value if is_joined else following
    host = given["--host"].strip("[]") or "127.0.0.1"
    return ANYWHERE.get(host, host), int(given["--port"] or 8080)


if __name__ == "__main__":
    main()
