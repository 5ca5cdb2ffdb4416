"""Requests of commands to a running service: whom they trust, the key they show, and the sentence of a refusal."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer

Option = typer.Option
ApiKeyOption = Annotated[
    str | None,
    Option(help="A key of the service, where it asks for one; better in the variable.", envvar="RECALL_API_KEY"),
]

CaOption = Annotated[
    Path | None,
    Option("--ca", help="PEM file of authorities that vouch for an https address. Default: the system's."),
]
CertOption = Annotated[
    Path | None,
    Option("--cert", help="PEM file of our own certificate and its key, where the service wants one."),
]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom we believe to be the service, and who we say that we are."""

    ca: Path | None = None
    cert: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ValueError for files that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert)
        except OSError as error:
            raise ValueError(f"--ca {self.ca}, --cert {self.cert}: cannot be used ({error})") from error
        return context


SYSTEM = Trust()  # the authorities that the system knows


def bearing(api_key: str | None) -> dict[str, str]:
    """The headers of whoever has this key, if any. Raises ValueError for one that no header can hold."""
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("the API key has characters that no key has; `recall keys new` makes one")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def call(method: str, url: str, timeout_s: float = 10, trust: Trust = SYSTEM, **given: Any) -> dict[str, Any]:
    """The answer of a running service.

    Raises ValueError with the service's own sentence when it refuses, or when no service answers at `url`.
    """
    # here: `serve`, in the same module as commands that call, has no use for it
    import httpx

    # to read the system's authorities takes 20 ms, which plain HTTP does not need
    verify = trust.context() if url.startswith("https:") else True
    try:
        # a proxy of the environment knows nothing of this machine's own ports
        has_proxy = not is_loopback(httpx.URL(url).host)
        with httpx.Client(timeout=timeout_s, trust_env=has_proxy, verify=verify) as client:
            reply = client.request(method, url, **given)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
        raise ValueError(
            f"nothing answers at {url} ({error}); start a service with `recall serve` or `recall demo`"
        ) from error
    try:
        answer: dict[str, Any] = reply.json()
    except ValueError:
        raise ValueError(f"{reply.status_code}: no recall service answers at {url}") from None
    if reply.status_code != 200:
        raise ValueError(f"{reply.status_code} {answer.get('code')}: {answer.get('message')}")
    return answer


def is_loopback(host: str) -> bool:
    """True for this machine itself, by name or by address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
