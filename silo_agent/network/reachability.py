"""The way to the aggregator, a step at a time, as preflight walks it: name, connection, TLS, clock.

Every step returns what there is to say, or raises an error whose hint is the fix. It does without gRPC, which says of
all of this only that the connection failed.
"""

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from crypto.errors import ConnectionFailed, IdentityError, SparsiloError
from crypto.identity import hosts_of, read_peer, read_peers
from silo_agent.host.credential_files import naming, read_credential
from silo_agent.network.address import split_address
from silo_agent.network.proxy import Proxy

MOST_SKEW: Final = timedelta(minutes=5)
"""By how much the two clocks may differ: more is a clock that nobody sets."""
STEP_SECONDS: Final = 10.0
"""How long a connection may take."""

_MOST_REPLY: Final = 1 << 16
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_OPENING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A client's first words in HTTP/2: preface and empty SETTINGS (RFC 9113, 3.4)."""
_SETTINGS: Final = 4
"""Type of the frame that a server begins with (RFC 9113, 6.5)."""

# OpenSSL's verification codes (X509_V_ERR_)
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_OTHER_NAMES: Final = (62, 64)
_OTHER_AUTHORITY: Final = (2, 7, 18, 19, 20, 21, 30)

_ABOUT_US: Final = re.compile("ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)")
"""TLS alerts by which a server refuses a client certificate."""


@dataclass(frozen=True)
class TlsFiles:
    """This silo's certificate and key, and the authority that the aggregator's certificate must come from; PEM."""

    certificate: Path
    private_key: Path
    authority: Path


def utc_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)


def resolve(target: str, proxy: Proxy | None) -> str:
    """Look up the only name that this machine must know: the proxy's, which then resolves the aggregator's itself.

    Raises ConnectionFailed.
    """
    host, port = (proxy.host, proxy.port) if proxy else split_address(target)
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a name
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            problem = "no name server answers"
            hint = "allow this machine to ask its name server (UDP and TCP 53), or correct /etc/resolv.conf"
        else:
            problem, hint = "no such name", f"check {_origin(proxy)}"
            hint += "" if proxy else "; where only an HTTP proxy can resolve it, set proxy"
        raise ConnectionFailed(f"{host}: {problem}", hint=hint) from None
    addresses = ", ".join(dict.fromkeys(str(address[0]) for *_, address in entries))
    return f"{host} is {addresses}" + (f"; the proxy resolves {split_address(target)[0]}" if proxy else "")


def connect(target: str, proxy: Proxy | None) -> socket.socket:
    """Return a connection to the aggregator, through the proxy where there is one. Raises ConnectionFailed."""
    address = (proxy.host, proxy.port) if proxy else split_address(target)
    where = f"the proxy {proxy}" if proxy else target
    try:
        opened = socket.create_connection(address, STEP_SECONDS)
    except ConnectionRefusedError:
        raise ConnectionFailed(
            f"{where}: refuses connections",
            hint=f"check the port in {_origin(proxy)}, and that it runs",
        ) from None
    except (OSError, UnicodeError) as error:
        problem = "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached: {_reason(error)}"
        raise ConnectionFailed(
            f"{where}: {problem}",
            hint=f"have outgoing TCP to {where} allowed (firewall, network policy)"
            + ("" if proxy else ", or set proxy in the config"),
        ) from None
    if proxy:
        try:
            _through(opened, target, proxy)
        except SparsiloError:
            opened.close()
            raise
    return opened


def _through(opened: socket.socket, target: str, proxy: Proxy) -> None:
    """Have the proxy at the other end CONNECT to the target (RFC 9110, 9.3.6). Raises ConnectionFailed."""
    lines = (f"CONNECT {target} HTTP/1.1", f"Host: {target}", *filter(None, (proxy.headers,)), "", "")
    reply = b""
    try:
        opened.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in reply and len(reply) < _MOST_REPLY and (data := opened.recv(1024)):
            reply += data
    except OSError as error:
        raise ConnectionFailed(f"the proxy {proxy}: {_reason(error)}", hint="ask the proxy's people why") from None
    status = _STATUS.match(reply)
    match status and int(status[1]):
        case 200:
            return
        case None:
            problem, hint = "does not answer as an HTTP proxy does", f"check host and port in {proxy.origin}"
        case 401 | 407 if proxy.credentials:  # 401: tinyproxy
            problem, hint = "refuses the credentials", f"correct user and password in {proxy.origin}"
        case 401 | 407:
            problem = "asks for credentials"
            hint = "put http://user:password@host:port into a file and name it as proxy_file in the config"
        case 403 | 405 as code:
            problem = f"does not allow a connection to {target} (status {code})"
            hint = f"have CONNECT to {target} allowed for this machine"
        case code:
            problem = f"cannot connect to {target} (status {code})"
            hint = "check aggregator in the config, and that the proxy's machine can resolve and reach it"
    raise ConnectionFailed(f"the proxy {proxy}: {problem}", hint=hint)


def shake_hands(target: str, proxy: Proxy | None, files: TlsFiles, now: datetime) -> str:
    """Do TLS as gRPC does it, down to the first frame that the aggregator sends: both certificates are then accepted.

    Return what was agreed on and how long the aggregator's certificate lasts. Raises IdentityError for a certificate,
    ConnectionFailed for anything else.
    """
    try:
        context = _context(files)
    except OSError as error:  # SSLError is one
        raise IdentityError(f"{files.certificate}: cannot be used: {_reason(error)}", hint="see TLS above") from None
    plain = connect(target, proxy)
    try:
        tls = context.wrap_socket(plain, server_hostname=split_address(target)[0])
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise _distrusted(error, target, proxy, files, now) from None
    except OSError as error:
        plain.close()
        raise _ended(error, target, files) from None
    with tls:
        if tls.selected_alpn_protocol() != "h2":
            raise _no_grpc(target)
        try:
            tls.sendall(_OPENING)
            first = tls.recv(9)
        except (ConnectionError, ssl.SSLEOFError):
            first = b""
        except OSError as error:
            raise _ended(error, target, files) from None
        if not first:  # in TLS 1.3 a server sees the client's certificate when the client takes the handshake for done
            raise _refused(target, files, "hangs up after the handshake")
        if first[3:4] != bytes([_SETTINGS]):
            raise _no_grpc(target)
        shown = read_peer(_certificate(tls))
        days = (shown.end - now).days
        return f"{tls.version()}, the aggregator's certificate is from {shown.issuer!r} and ends in {days} days"


def _context(files: TlsFiles | None) -> ssl.SSLContext:
    """Return how to speak TLS with these files; without any, a context that trusts whatever is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])  # gRPC servers insist on it
    if files is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: any certificate of the file is an anchor
        context.load_verify_locations(files.authority)
        # without a password OpenSSL would ask for one on the terminal
        context.load_cert_chain(files.certificate, files.private_key, password="")
    return context


def _certificate(tls: ssl.SSLSocket) -> bytes:
    """Return the certificate that is shown at the other end, PEM."""
    return ssl.DER_cert_to_PEM_cert(tls.getpeercert(True) or b"").encode()


def _shown(target: str, proxy: Proxy | None) -> bytes | None:
    """Return the certificate (PEM) that is shown to a client which trusts any and shows none; None where none is."""
    try:
        with (
            connect(target, proxy) as plain,
            _context(None).wrap_socket(plain, server_hostname=split_address(target)[0]) as tls,
        ):
            return _certificate(tls)
    except (SparsiloError, OSError):
        return None


def _distrusted(
    error: ssl.SSLCertVerificationError, target: str, proxy: Proxy | None, files: TlsFiles, now: datetime
) -> IdentityError:
    """Return an error that says why the certificate shown for `target` is not to be trusted."""
    host, _ = split_address(target)
    pem = _shown(target, proxy)
    about = f"the certificate shown for {host}"
    with naming(about):
        shown, hosts = (read_peer(pem), hosts_of(pem)) if pem else (None, [])
    if error.verify_code in _OTHER_AUTHORITY:
        issuer = shown.issuer if shown else "an authority that it does not say"
        with naming(files.authority):
            same = any(issuer == authority.subject for authority in read_peers(read_credential(files.authority)))
        if same:
            return IdentityError(
                f"{about} was issued by another {issuer!r} than the one in {files.authority}",
                hint="the aggregator's authority was replaced: get the new one over a channel you trust",
            )
        return IdentityError(
            f"an intercepting proxy: {about} was issued by {issuer!r}, not by the authority in {files.authority}",
            hint=f"have {target} exempted from TLS inspection; where nobody inspects, the aggregator has another "
            "authority: get it over a channel you trust",
        )
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC; if that is right,"
    if error.verify_code == _EXPIRED:
        end = f" {shown.end:%Y-%m-%d %H:%M} UTC" if shown else ""
        return IdentityError(f"{about} expired{end}", hint=f"{clock} the aggregator's people must renew it")
    if error.verify_code == _NOT_YET:
        start = f" {shown.start:%Y-%m-%d %H:%M} UTC" if shown else ""
        return IdentityError(f"{about} is not valid before{start}", hint=f"{clock} tell the aggregator's people")
    if error.verify_code in _OTHER_NAMES:
        names = f"for {', '.join(hosts) or 'nobody'}" if shown else "for another host"
        return IdentityError(
            f"{about} is {names}", hint="aggregator in the config must be a name that the certificate is for"
        )
    return IdentityError(f"{about} is refused: {error.verify_message}", hint="tell the aggregator's people")


def _refused(target: str, files: TlsFiles, reason: str) -> IdentityError:
    """Return an error that says that the other end does not accept this silo's certificate."""
    return IdentityError(
        f"{target}: does not accept {files.certificate}: {reason}",
        hint="enrol anew, or have the aggregator's people accept the authority that issued it",
    )


def _no_grpc(target: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"{target}: no gRPC server answers",
        hint="check host and port of aggregator in the config; a gateway before it must pass HTTP/2 on",
    )


def _ended(error: OSError, target: str, files: TlsFiles) -> SparsiloError:
    """Return an error that says what the end of a TLS connection, or of its handshake, means."""
    reason = (error.reason if isinstance(error, ssl.SSLError) else None) or ""
    if _ABOUT_US.search(reason):
        return _refused(target, files, reason.partition("ALERT_")[2].lower().replace("_", " "))
    if "NO_APPLICATION_PROTOCOL" in reason:
        return _no_grpc(target)
    return ConnectionFailed(
        f"{target}: no TLS connection: {_reason(error)}",
        hint="check the port; a firewall may end TLS to there, or a load balancer has no aggregator behind it",
    )


def clock_skew(aggregator_time: Callable[[], datetime], own_time: Callable[[], datetime] = utc_now) -> str:
    """Compare the two clocks; return by how much they differ.

    Raises IdentityError where that is more than MOST_SKEW, and whatever asking the aggregator raises.
    """
    before = own_time()
    theirs = aggregator_time()
    half = (own_time() - before) / 2
    ahead = before + half - theirs
    seconds = round(abs(ahead.total_seconds()))
    skew = f"this machine's clock is {seconds} seconds {'ahead of' if ahead > -ahead else 'behind'} the aggregator's"
    if abs(ahead) > MOST_SKEW + half:
        raise IdentityError(skew, hint="set this machine's clock (NTP); if it is right, tell the aggregator's people")
    return skew


def _origin(proxy: Proxy | None) -> str:
    """Return where the name that is dialled comes from."""
    return proxy.origin if proxy else "aggregator in the config"


def _reason(error: Exception) -> str:
    """Return an error's own words."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
