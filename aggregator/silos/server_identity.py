"""Who the aggregator is to silos that dial it, and whom it issues certificates: its authority, and the certificate of
its server, which changes without a restart.
"""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Final

from aggregator.config import AggregatorConfig
from aggregator.silos.admission import Clock
from crypto.errors import IdentityError
from crypto.identity import Authority, Certified, check_certificates, check_key_pair, read_peer
from silo_agent.config import named, read_bytes, write_secret

AUTHORITY_LIFETIME: Final = timedelta(days=3653)
SERVER_LIFETIME: Final = timedelta(days=30)
"""Of a certificate that the authority issues to its own server; renewed at half of it."""

_log = logging.getLogger(__name__)


class ServerIdentity:
    """Reads, or the first time makes, the authority in the state folder. Raises IdentityError naming the file."""

    def __init__(self, config: AggregatorConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self.authority: Final = _kept_authority(config.state, clock)
        self._seen: tuple[object, ...] = ()
        self._own = self._read_own() if config.certificate else self._issued()
        self._client_authorities()

    @property
    def trusted(self) -> bytes:
        """The authority, PEM, that silos are told to trust."""
        return read_bytes(self._config.authority) if self._config.authority else self.authority.certificate

    def current(self) -> tuple[Certified, bytes]:
        """The server's certificate, and whose client certificates are accepted, as of now."""
        if self._config.certificate is None:
            peer = read_peer(self._own.certificate)
            if self._clock() > peer.start + (peer.end - peer.start) / 2:
                self._own = self._issued()
        elif self._seen != self._stamps():
            try:
                self._own = self._read_own()
            except IdentityError as error:  # half-replaced, perhaps: the other half will come
                _log.warning("%s; the earlier certificate stays in use", error.message)
        return self._own, self._client_authorities()

    def expiry(self) -> float:
        """When the server's certificate ends, in Unix seconds."""
        return read_peer(self.current()[0].certificate).end.timestamp()

    def _issued(self) -> Certified:
        hosts = (self._config.public_host, "localhost", "127.0.0.1")
        return self.authority.issue("aggregator", hosts, now=self._clock(), lifetime=SERVER_LIFETIME)

    def _read_own(self) -> Certified:
        certificate_file, key_file = self._files
        stamps = self._stamps()
        certificate, key = read_bytes(certificate_file), read_bytes(key_file)
        with named(certificate_file):
            check_certificates(certificate, self._clock())
        with named(key_file):
            check_key_pair(key, certificate)
        self._seen = stamps
        return Certified(certificate, key)

    def _client_authorities(self) -> bytes:
        others = self._config.client_authorities
        return self.authority.certificate + (read_bytes(others) if others else b"")

    @property
    def _files(self) -> tuple[Path, Path]:
        return Path(self._config.certificate or ""), Path(self._config.private_key or "")

    def _stamps(self) -> tuple[object, ...]:
        try:
            return tuple((file.stat().st_mtime_ns, file.stat().st_ino) for file in self._files)
        except OSError:
            return ()


def _kept_authority(state: Path, clock: Clock) -> Authority:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = state / "authority.crt", state / "authority.key"
    if not certificate.exists():
        made = Authority("sparsilo aggregator", clock(), AUTHORITY_LIFETIME)
        key.unlink(missing_ok=True)  # of a start that came no further
        write_secret(key, made.own.private_key)
        certificate.write_bytes(made.certificate)
    with named(key):
        return Authority.load(Certified(read_bytes(certificate), read_bytes(key)))
