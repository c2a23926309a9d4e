"""Checks of what the config names beside model and text: keys, roster, certificates, policy, state folder."""

from datetime import datetime, timedelta
from typing import Final

from crypto.identity import read_peer
from silo_agent.commands.checks.check import Check
from silo_agent.config import AgentConfig
from silo_agent.consent.policy import Policy
from silo_agent.consent.privacy_ledger import PrivacyLedger
from silo_agent.host.credential_files import read_credential
from silo_agent.identity.own_files import read_identity, read_tls

SOON: Final = timedelta(days=14)
"""A certificate that nobody renews and that ends within this time is warned of."""


class OwnFileChecks:
    """A method a check: it returns what there is to say, or raises the error that a round would end with."""

    def __init__(self, config: AgentConfig, now: datetime) -> None:
        self._config, self._now = config, now

    def identity(self) -> str:
        """Check signing key and pinned roster."""
        config = self._config
        _, roster = read_identity(config)
        return f"{config.signing_key}: its public key is the roster's of {config.silo}, one of {len(roster)} silos"

    def tls(self) -> str:
        """Check the files of certificates and keys."""
        config = self._config
        read_tls(config, self._now)
        return f"{config.certificate}, {config.private_key}, {config.authority}: fit together and are in force"

    def certificate(self) -> str | Check:
        """Say how old the certificate is, and warn where it ends soon and nobody renews it."""
        peer = read_peer(read_credential(self._config.certificate))
        left = peer.end - self._now
        age = f"{(self._now - peer.start).days} days old, ends in {left.days} days, on {peer.end:%Y-%m-%d}"
        if self._config.renew_certificate:
            renewal = peer.start + (peer.end - peer.start) / 2
            return f"{age}; a running agent renews it from {renewal:%Y-%m-%d} on"
        if left < SOON:
            return Check("certificate", "warning", f"{age} (ask whoever issues it for a new one)")
        return age

    def policy(self) -> str:
        """Check policy.yaml."""
        policy = Policy.read(self._config.policy)
        return f"{self._config.policy}: approval {policy.approval}, at least {policy.least_survivors} survivors"

    def state(self) -> str:
        """Check that the state store can be opened for a change, and that the privacy ledger is what was written."""
        state = self._config.state
        PrivacyLedger(state).spent()
        return f"{state}: can be written; that the disk is this machine's own cannot be seen from here"
