"""This silo's TLS certificate while its agent runs: files that were replaced are taken up, and a certificate that the
aggregator issued is renewed at half its life, with a new key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from crypto.errors import IdentityError
from crypto.identity import Certified, certificate_request, check_key_pair, check_subject, read_peer
from crypto.roster import sign_certificate_key
from silo_agent.config import AgentConfig
from silo_agent.host.credential_files import naming, read_credential, read_secret, read_signing_key, write_secret
from silo_agent.host.watched_files import WatchedFiles
from silo_agent.identity.own_files import read_tls
from silo_agent.network.dialled import dialled
from silo_agent.network.proxy import proxy_setting
from silo_agent.network.transport import Transport
from sparsilo.v1 import identity_pb2

_NEXT: Final = ".next"
"""What is added to a file's name for the one that will replace it."""


class OwnCertificate:
    """The certificate that an agent shows the aggregator, and the authority that it trusts, as the files have them."""

    def __init__(self, config: AgentConfig, now: datetime) -> None:
        """Read the files, after finishing a renewal that was cut off. Raises IdentityError naming the file."""
        self._config = config
        _finish_replacing(config)
        files = (config.certificate, config.private_key, config.authority)
        self._files = WatchedFiles(files, lambda moment: read_tls(config, moment), now)

    @property
    def current(self) -> tuple[Certified, bytes]:
        """The certificate with its key, and the authority's certificate (PEM): what a transport dials with."""
        return self._files.content

    def expiry(self) -> datetime:
        """Return when the certificate on disk ends. Raises IdentityError."""
        return read_peer(read_credential(self._config.certificate)).end

    def keep_fresh(self, transport: Transport, now: datetime) -> bool:
        """Renew the certificate where it is due, take up replaced files; return whether `transport` got a new one.

        A new one is announced to the aggregator. To be called while `transport` makes no other call. Raises
        IdentityError where the aggregator issues a certificate that was not asked for, and whatever calling it raises.
        """
        if not self._files.were_replaced() and self._is_due(now):
            self._renew(transport)
        if not self._files.take_up(now):
            return False
        transport.certify(*self.current)
        self.announce(transport)
        return True

    def announce(self, transport: Transport) -> None:
        """Tell the aggregator that this silo calls with the certificate in use from now on, and with no other.

        Signed with the silo's signing key: whoever has only the certificate can have no other heard in its place.
        """
        own, _ = self.current
        key = read_signing_key(self._config.signing_key, self._config.suite)
        signature = sign_certificate_key(key, self._config.silo, read_peer(own.certificate).key)
        transport.identify("Announce", identity_pb2.AnnounceRequest(signature=signature), identity_pb2.AnnounceReply)

    def _is_due(self, now: datetime) -> bool:
        """Return whether this agent renews its certificate, and half of the certificate's life is over."""
        if not self._config.renew_certificate:
            return False
        peer = read_peer(read_credential(self._config.certificate))
        return now >= peer.start + (peer.end - peer.start) / 2

    def _renew(self, transport: Transport) -> None:
        """Have a new key certified, and replace both files. Cut off at any point, it leaves a pair that fits or that
        `_finish_replacing` makes fit.
        """
        request, private_key = certificate_request(self._config.silo)
        renew = identity_pb2.RenewRequest(certificate_request=request)
        certificate = transport.identify("Renew", renew, identity_pb2.RenewReply).certificate
        with naming("the certificate that the aggregator issued"):
            check_subject(certificate, self._config.silo)
            check_key_pair(private_key, certificate)
        for file, content in ((self._config.private_key, private_key), (self._config.certificate, certificate)):
            next_ = _next(file)
            next_.unlink(missing_ok=True)
            write_secret(next_, content)
        _next(self._config.private_key).replace(self._config.private_key)
        _next(self._config.certificate).replace(self._config.certificate)


@contextmanager
def connected(config: AgentConfig, now: datetime) -> Iterator[Transport]:
    """Yield a transport for one short command, which dials as the agent of `config` does.

    Raises ConfigError or IdentityError naming the file that is wrong.
    """
    own, authority = read_tls(config, now)
    with dialled(config.aggregator, own, authority, proxy_setting(config.proxy, config.proxy_file)) as transport:
        yield transport


def _finish_replacing(config: AgentConfig) -> None:
    """Put the new certificate into place where a renewal was cut off after it had replaced the private key."""
    waiting = _next(config.certificate)
    if not waiting.exists():
        return
    try:
        check_key_pair(read_secret(config.private_key), read_credential(waiting))
    except IdentityError:  # it was cut off before it replaced the private key
        return
    waiting.replace(config.certificate)


def _next(file: Path) -> Path:
    return file.with_name(file.name + _NEXT)
