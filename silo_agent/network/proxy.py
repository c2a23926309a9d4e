"""Which HTTP proxy the agent dials through, and how gRPC is kept to it.

gRPC's own choice is not to be trusted with data that may leave only one way: it reads `https_proxy` but not
`HTTPS_PROXY`, dials directly where a proxy's URL is not to its liking, and lets `no_proxy` overrule an explicit proxy.
So the choice is made here, an unusable proxy is an error, and gRPC is handed nothing but the address to dial.
"""

import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from crypto.errors import ConfigError
from silo_agent.host.credential_files import others_may
from silo_agent.network.address import HOST_AND_PORT, join_address, split_address

NEVER: Final = "none"

# gRPC's order: what is meant for gRPC, for TLS, for anything else; lower case first, as curl has it.
VARIABLES: Final = tuple(
    spelling for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy") for spelling in (name, name.upper())
)
EXCEPTIONS: Final = ("no_grpc_proxy", "NO_GRPC_PROXY", "no_proxy", "NO_PROXY")

_ADDRESS: Final = re.compile(HOST_AND_PORT)
_URL: Final = re.compile(rf"(?i:http)://(?:([^\s/?#]*)@)?{HOST_AND_PORT}/?")
_OTHER_KINDS: Final = re.compile(r"(https|socks(?:4a?|5h?)?)://", re.IGNORECASE)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT to the aggregator."""

    host: str
    """Name or address, without brackets."""
    port: int
    origin: str
    """Where the choice was made: the config's field, or an environment variable."""
    credentials: str = field(default="", repr=False)
    """user:password; empty where there are none."""

    def __str__(self) -> str:
        return join_address(self.host, self.port)

    @property
    def headers(self) -> str:
        """The header lines that go with CONNECT; a secret. Empty without credentials."""
        return f"Proxy-Authorization:Basic {b64encode(self.credentials.encode()).decode()}" if self.credentials else ""


def proxy_setting(proxy: str, file: Path | None) -> str:
    """Return `proxy`, or what `file` holds.

    Raises ConfigError where both are given, or the file holds nothing or is open to others.
    """
    if file is None:
        return proxy
    if proxy:
        raise ConfigError("proxy: cannot be given with proxy_file", hint="leave out one of them")
    try:
        with file.open(encoding="utf-8") as opened:
            status, url = os.fstat(opened.fileno()), opened.read().strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError("proxy_file: cannot be read") from None  # where it is a URL by mistake, it has the password
    if others_may(status):
        raise ConfigError("proxy_file: is open to others", hint="chmod 600")
    if not url:
        raise ConfigError("proxy_file: is empty", hint="it has to hold a proxy's URL, or none")
    return url


def chosen_proxy(setting: str, target: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy to reach `target` (host:port) through; None means to dial it directly.

    A `setting` decides alone: a URL, or `none`. Where it is empty, the environment does: the first of VARIABLES that
    is not empty, unless the first of EXCEPTIONS that is not empty lists the target. Raises ConfigError naming where an
    unusable URL comes from, and nothing of the URL.
    """
    host, port = split_address(target)
    if setting == NEVER:
        return None
    if setting:
        return _parsed(setting, "the config's proxy")
    name = next((name for name in VARIABLES if environment.get(name, "").strip()), None)
    if name is None:
        return None
    exceptions = next((entries for name in EXCEPTIONS if (entries := environment.get(name, "").strip())), "")
    if any(_covers(entry, host, port) for entry in re.split(r"[\s,]+", exceptions) if entry):
        return None
    return _parsed(environment[name].strip(), name)


def dialling(target: str, proxy: Proxy | None) -> tuple[str, tuple[tuple[str, str | int], ...]]:
    """Return what to open a gRPC channel to, and its options, to reach `target` through exactly this proxy, or none.

    With a proxy the channel knows no other address than the proxy's: nothing that gRPC reads or falls back to can make
    it dial the target itself. TLS still ends at the target, whose name the certificate must have.
    """
    target = join_address(*split_address(target))
    # Or gRPC would look into the environment for another proxy, by the name to dial and by each address of it.
    options: tuple[tuple[str, str | int], ...] = (
        ("grpc.enable_http_proxy", 0),
        ("grpc.address_http_proxy_enabled_addresses", ""),
    )
    if proxy is None:
        return f"dns:///{target}", options
    options += (("grpc.http_connect_server", target), ("grpc.default_authority", target))
    if proxy.credentials:
        options += (("grpc.http_connect_headers", proxy.headers),)
    return f"dns:///{proxy}", options


def _parsed(url: str, origin: str) -> Proxy:
    """Return the proxy of a URL that comes from `origin`. Raises ConfigError, which says nothing of the URL."""
    if kind := _OTHER_KINDS.match(url):
        raise ConfigError(
            f"{origin}: names a proxy of kind {kind[1].lower()}, which cannot be used",
            hint="an HTTP proxy passes TLS on and is http://host:port; to dial directly, proxy: none in the config",
        )
    parts = _URL.fullmatch(url)
    try:
        credentials = unquote(parts[1] or "", errors="strict") if parts else ""
    except UnicodeDecodeError:
        parts = None
    if parts is None or not 0 < int(parts[3]) < 1 << 16:
        raise ConfigError(
            f"{origin}: is not an HTTP proxy's URL",
            hint="http://host:port or http://user:password@host:port, special characters as %40; "
            "to dial directly, proxy: none in the config",
        )
    return Proxy(parts[2].strip("[]"), int(parts[3]), origin, credentials)


def _covers(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of no_proxy covers host and port.

    An entry is *, a name (which covers all names below it too), .name (only what is below it), an address or a network.
    A name or an address with a port covers only this port.
    """
    if with_port := _ADDRESS.fullmatch(entry):
        entry = with_port[1]
        if int(with_port[2]) != port:
            return False
    if entry == "*":
        return True
    entry = entry.strip("[]").rstrip(".").removeprefix("*").lower()
    try:
        address = ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        return name == entry or name.endswith(f".{entry.removeprefix('.')}")
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False
