"""Who the aggregator is to silos that dial it: its authority, which issues certificates, and its server's certificate,
which changes without a restart.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from aggregator.config import AggregatorConfig
from aggregator.silos.admission import Clock
from crypto.identity import Authority, Certified, check_certificates, check_key_pair, read_peer
from silo_agent.host.credential_files import naming, read_credential, read_secret, write_secret
from silo_agent.host.watched_files import WatchedFiles
from silo_agent.host.whole_file import write_whole

AUTHORITY_LIFETIME: Final = timedelta(days=3653)
SERVER_LIFETIME: Final = timedelta(days=30)
"""How long a certificate lasts that the authority issues to its own server; it is renewed at half of that."""


class ServerIdentity:
    """The aggregator's authority, which is kept in the state folder, and its server's certificate as of now."""

    def __init__(self, config: AggregatorConfig, clock: Clock) -> None:
        """Read the authority, or make it the first time. Raises IdentityError naming the file that is wrong."""
        self._config, self._clock = config, clock
        self.authority: Final = _kept_authority(config.state, clock)
        self._files: WatchedFiles[Certified] | None = None
        if config.certificate and config.private_key:
            certificate, private_key = config.certificate, config.private_key
            self._files = WatchedFiles(
                (certificate, private_key), lambda now: _read_own(certificate, private_key, now), clock()
            )
        else:
            self._issued = self._issue()
        self._client_authorities()  # an unreadable file is found now

    @property
    def trusted(self) -> bytes:
        """The authority (PEM) that silos are told to trust."""
        return read_credential(self._config.authority) if self._config.authority else self.authority.certificate

    def current(self) -> tuple[Certified, bytes]:
        """Return the server's certificate, and the authorities (PEM) whose client certificates are accepted, as of now.

        An issued certificate is renewed at half its life; files that were replaced are taken up.
        """
        if self._files:
            self._files.take_up(self._clock())
            return self._files.content, self._client_authorities()
        peer = read_peer(self._issued.certificate)
        if self._clock() > peer.start + (peer.end - peer.start) / 2:
            self._issued = self._issue()
        return self._issued, self._client_authorities()

    def expiry(self) -> float:
        """Return when the server's certificate ends, in Unix seconds."""
        return read_peer(self.current()[0].certificate).end.timestamp()

    def _issue(self) -> Certified:
        """Return a new certificate of the server, by the aggregator's own authority."""
        hosts = (self._config.public_host, "localhost", "127.0.0.1")
        return self.authority.issue("aggregator", hosts, now=self._clock(), lifetime=SERVER_LIFETIME)

    def _client_authorities(self) -> bytes:
        others = self._config.client_authorities
        return self.authority.certificate + (read_credential(others) if others else b"")


def _read_own(certificate_file: Path, key_file: Path, now: datetime) -> Certified:
    """Return the server's own certificate with its key. Raises IdentityError naming the file that is wrong."""
    certificate, key = read_credential(certificate_file), read_secret(key_file)
    with naming(certificate_file):
        check_certificates(certificate, now)
    with naming(key_file):
        check_key_pair(key, certificate)
    return Certified(certificate, key)


def _kept_authority(state: Path, clock: Clock) -> Authority:
    """Return the authority in the state folder, which is made the first time."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = state / "authority.crt", state / "authority.key"
    if not certificate.exists():
        made = Authority("sparsilo aggregator", clock(), AUTHORITY_LIFETIME)
        key.unlink(missing_ok=True)  # an earlier start was cut off before the certificate
        write_secret(key, made.own.private_key)
        write_whole(certificate, made.certificate)
    with naming(key):
        return Authority.load(Certified(read_credential(certificate), read_secret(key)))
