"""Sockets to listen on, and addresses as text."""

import socket

BACKLOG = 2048


def listen(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """A listening socket; an address with colons is IPv6, and `::` takes IPv4 too. Raises OSError."""
    host, family = address_of(host)
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port), family=family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=both
    )


def hold(host: str, port: int) -> socket.socket:
    """A socket that is bound to a port that it may share, and does not listen yet. Raises OSError."""
    host, family = address_of(host)
    held = socket.socket(family)
    # every process that shares a port has to say so before it binds
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
    try:
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def address_of(host: str) -> tuple[str, socket.AddressFamily]:
    host = host.strip("[]")
    return host, socket.AF_INET6 if ":" in host else socket.AF_INET


def url_of(host: str, port: int, is_tls: bool = False) -> str:
    scheme, (host, family) = "https" if is_tls else "http", address_of(host)
    return f"{scheme}://[{host}]:{port}" if family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
