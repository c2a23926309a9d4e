"""An aggregator that silos enrol with, over mutual TLS on loopback, with a clock that tests set."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry

from aggregator.config import AggregatorConfig
from aggregator.edge.servicer import serve
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from aggregator.silos.admission import enrolled
from aggregator.silos.enrolments import Enrolments
from aggregator.silos.identity_service import IdentityService
from aggregator.silos.server_identity import ServerIdentity
from crypto.identity import Certified, certificate_request, read_peer
from crypto.names import Suite
from crypto.roster import sign_certificate_key, sign_enrolment
from silo_agent.host.metrics import unseen
from silo_agent.network.transport import Transport
from sparsilo.v1 import identity_pb2
from support.driven import on
from support.plans import signing_keys

KEYS = signing_keys(6)
DAY = timedelta(days=1)


class Aggregator:
    """What `aggregator serve` answers with, in this process. Its clock is ahead of the silos', and `later` moves it."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, ahead: timedelta = timedelta()) -> None:
        self.ahead, self.later = ahead, timedelta()
        self.suite = Suite.DEFAULT
        self.enrolments = Enrolments(folder)
        config = AggregatorConfig("127.0.0.1:1", "model", folder)
        self.identity = ServerIdentity(config, lambda: datetime.now(UTC) + ahead)
        self.authority = self.identity.authority
        self.registry = CollectorRegistry()
        self.driver = RoundDriver(AggregatorMetrics(self.registry), lambda *_: None)
        self.service = IdentityService(self.enrolments, self.authority, self.suite, self.clock)
        admit = enrolled(self.enrolments, self.clock)
        self.server, self.port = on(loop, serve(self.driver, admit, "127.0.0.1:0", self.identity.current, self.service))

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead + self.later

    def invitation(self, silo: str, lifetime: timedelta = DAY) -> Certified:
        own = self.authority.issue(silo, now=datetime.now(UTC) + self.ahead, lifetime=lifetime, invitation=True)
        self.enrolments.invite(silo, read_peer(own.certificate).serial)
        return own

    def transport(self, own: Certified) -> Transport:
        return Transport(f"127.0.0.1:{self.port}", own, self.identity.trusted, unseen(), reconnect_seconds=0.3)

    def enroll(self, silo: str, key: str = "") -> Certified:
        request, private_key = certificate_request(silo)
        with closing(self.transport(self.invitation(silo))) as transport:
            certificate = transport.identify("Enroll", asking(silo, request, key), identity_pb2.EnrollReply).certificate
        return Certified(certificate, private_key)

    def refused(self, reason: str) -> float:
        found = self.registry.get_sample_value("sparsilo_aggregator_refused_calls_total", {"reason": reason})
        assert found is not None
        return found


def asking(silo: str, request: bytes, key: str = "") -> identity_pb2.EnrollRequest:
    signing_key = KEYS[key or f"silo-00{'abc'.index(silo)}"]
    return identity_pb2.EnrollRequest(
        signing_key=signing_key.public_bytes,
        certificate_request=request,
        signature=sign_enrolment(signing_key, silo, request, b""),
    )


def renewed(transport: Transport, silo: str) -> Certified:
    """A new certificate, whose key nobody has announced yet."""
    request, private_key = certificate_request(silo)
    asked = identity_pb2.RenewRequest(certificate_request=request)
    return Certified(transport.identify("Renew", asked, identity_pb2.RenewReply).certificate, private_key)


def announce(transport: Transport, own: Certified, silo: str, key: str) -> None:
    """Have the aggregator told, over `transport`, that `silo` calls with the key of `own`; `key` signs."""
    signature = sign_certificate_key(KEYS[key], silo, read_peer(own.certificate).key)
    transport.identify("Announce", identity_pb2.AnnounceRequest(signature=signature), identity_pb2.AnnounceReply)
