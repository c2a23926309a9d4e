"""This silo's withdrawals: after a round that ended it says that it reveals no share there, and asks who else said so.

Where enough silos did, nobody can ever open that round's sum, and the ledger does not hold further rounds against it
(docs/protocol.md, 2.5.14 to 2.5.16). Whether and when a silo says so depends on no text.
"""

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from crypto.backends.withdrawal import enough, withdraw, withdrew
from crypto.errors import ProtocolError, ReleaseRefused, VersionsDiffer
from crypto.plan_rules import decode_plan
from crypto.primitives.signing import SigningKey
from silo_agent.config import AgentConfig
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.ledger import Release
from silo_agent.consent.withdrawn import Withdrawn
from silo_agent.network.transport import Transport

MOST_ASKED: Final = 8
"""Of how many of the latest rounds an agent asks at a time."""

_log = logging.getLogger(__name__)


class Withdrawals:
    """What one silo withdraws from, and what came of it."""

    def __init__(self, config: AgentConfig, transport: Transport) -> None:
        self._silo, self._transport = config.silo, transport
        self._withdrawn, self._audit = Withdrawn(config.state), AuditLog(config.state)

    def settle(self, key: SigningKey) -> bool:
        """Withdraw from every round in which this silo revealed nothing; between rounds only.

        Returns whether of all of them it is certain now that they never open.
        """
        left = [release for release in self._withdrawn.unsettled()[-MOST_ASKED:] if not self._settle(release, key)]
        return not left

    def _settle(self, release: Release, key: SigningKey) -> bool:
        encoded = self._withdrawn.plan(release)
        plan = decode_plan(encoded) if encoded else None
        needed = enough(plan, len(release.silos)) if plan else None
        if plan is None or needed is None:
            return True  # there is nothing to wait for
        signed = []
        with suppress(ProtocolError, VersionsDiffer, ReleaseRefused):  # an aggregator that knows no such round, or call
            self._withdrawn.withdraw(release.round)
            own = withdraw(key, release.round)
            signed = [(self._silo, own), *self._transport.withdraw(release.round, own)]
        if len(withdrew(plan, release.round, release.silos, signed)) < needed:
            return False
        self._withdrawn.settle(release.round)
        self._audit.append("withdrawn", "agent", datetime.now(UTC), round=release.round.hex())
        _log.info("round %s: %d silos withdrew, nobody can open it", release.round.hex()[:16], needed)
        return True
