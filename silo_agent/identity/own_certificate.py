"""This silo's TLS certificate while its agent runs: files that were replaced are taken up, and a certificate that the
aggregator issued is renewed at half its life, with a new key.
"""

import logging
from datetime import datetime
from pathlib import Path

from crypto.errors import IdentityError
from crypto.identity import Certified, certificate_request, check_key_pair, check_subject, read_peer
from silo_agent.config import AgentConfig, named, read_bytes, read_tls, write_secret
from silo_agent.network.transport import Transport
from sparsilo.v1 import identity_pb2

_NEXT = ".next"

_log = logging.getLogger(__name__)


class OwnCertificate:
    """Made before the transport: `read` is what it dials with. Raises IdentityError naming the file."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._seen: tuple[object, ...] = ()
        _finish_replacing(config)

    def read(self, now: datetime) -> tuple[Certified, bytes]:
        """The certificate with its key, and the authority to trust, as the files have them."""
        stamps = self._stamps()
        found = read_tls(self._config, now)
        self._seen = stamps
        return found

    def expiry(self) -> datetime:
        """When it ends. Raises IdentityError."""
        return read_peer(read_bytes(self._config.certificate)).end

    def keep_fresh(self, transport: Transport, now: datetime) -> bool:
        """To be called between calls. Whether there is a new certificate, which `transport` then uses."""
        if self._seen == self._stamps():
            peer = read_peer(read_bytes(self._config.certificate))
            if not self._config.renew_certificate or now < peer.start + (peer.end - peer.start) / 2:
                return False
            self._renew(transport)
        try:
            transport.certify(*self.read(now))
        except IdentityError as error:  # half-replaced, perhaps: the other half will come
            _log.warning("%s; the earlier certificate stays in use", error)
            return False
        return True

    def _renew(self, transport: Transport) -> None:
        request, private_key = certificate_request(self._config.silo)
        asked = identity_pb2.RenewRequest(certificate_request=request)
        certificate = transport.identify("Renew", asked, identity_pb2.RenewReply).certificate
        with named("the certificate that the aggregator issued"):
            check_subject(certificate, self._config.silo)
            check_key_pair(private_key, certificate)
        for file, content in ((self._config.private_key, private_key), (self._config.certificate, certificate)):
            next_ = _next(file)
            next_.unlink(missing_ok=True)
            write_secret(next_, content)
        _next(self._config.private_key).replace(self._config.private_key)
        _next(self._config.certificate).replace(self._config.certificate)

    def _stamps(self) -> tuple[object, ...]:
        files = (self._config.certificate, self._config.private_key, self._config.authority)
        try:
            return tuple((file.stat().st_mtime_ns, file.stat().st_ino) for file in files)
        except OSError:
            return ()


def _finish_replacing(config: AgentConfig) -> None:
    """Where a renewal was cut off between its two files, the second one follows."""
    waiting = _next(config.certificate)
    if not waiting.exists():
        return
    try:
        check_key_pair(read_bytes(config.private_key), read_bytes(waiting))
    except IdentityError:  # it was cut off before the first
        return
    waiting.replace(config.certificate)


def _next(file: Path) -> Path:
    return file.with_name(file.name + _NEXT)
