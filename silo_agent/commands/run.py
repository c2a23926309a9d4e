"""`silo-agent run`: take part in runs."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Final

import click

from silo_agent.config import AgentConfig
from silo_agent.host.logs import logging_as
from silo_agent.host.owned_folder import owned_folder
from silo_agent.host.terminal import ProgressBars, config_options

if TYPE_CHECKING:
    from silo_agent.network.transport import Transport
    from silo_agent.opened_sums.verify import Progress

ROSTER_SECONDS: Final = 2.0
"""How often an agent without a roster looks for one."""

_log = logging.getLogger(__name__)


@click.command()
@config_options
def run(config: Path, settings: tuple[str, ...]) -> None:
    """Take part in runs.

    Dials the aggregator, checks every plan against this silo's policy and ledger, prunes, and sends masked words. With
    `stay: true` in the config it goes on to the next round, whatever became of one, until SIGTERM.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else its lines are between ours, also where ours are JSON
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    agent = AgentConfig.read(config, os.environ, settings)
    with logging_as(agent.log_format), owned_folder(agent.state):
        _run(agent)


def _run(agent: AgentConfig) -> None:
    from prometheus_client import CollectorRegistry

    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.host.health import serve_health
    from silo_agent.host.metrics import SiloMetrics
    from silo_agent.identity.own_certificate import OwnCertificate
    from silo_agent.network.proxy import chosen_proxy, proxy_setting
    from silo_agent.network.transport import Transport
    from silo_agent.rounds.block_progress import BlockProgress
    from silo_agent.rounds.round_driver import Agent

    registry = CollectorRegistry()
    metrics = SiloMetrics(registry)
    ready = False
    port = serve_health(registry, lambda: ready, agent.metrics_host, agent.metrics_port)
    _log.info("metrics on http://%s:%d/metrics", agent.metrics_host, port)
    certificate = OwnCertificate(agent, datetime.now(UTC))
    _wait_for_roster(agent)
    metrics.roster_pinned.set(1)
    proxy = chosen_proxy(proxy_setting(agent.proxy, agent.proxy_file), agent.aggregator, os.environ)
    transport = Transport(
        agent.aggregator,
        *certificate.current,
        metrics,
        proxy=proxy,
        reconnect_seconds=inf if agent.stay else agent.reconnect_seconds,
        upload_rate=agent.upload_bytes_per_second,
    )

    def keep_certificate_fresh() -> None:
        if certificate.keep_fresh(transport, datetime.now(UTC)):
            until = f"{certificate.expiry():%Y-%m-%dT%H:%M:%SZ}"
            _log.info("%s: a new certificate, until %s", agent.certificate, until)
            AuditLog(agent.state).append("certificate_renewed", "agent", datetime.now(UTC), until=until)
        metrics.certificate_expiry.set(certificate.expiry().timestamp())

    with ProgressBars() as bars:
        announce = partial(certificate.announce, transport)
        progress = BlockProgress(metrics, bars)
        keep_up = _kept_results(agent, transport, progress)
        rounds = Agent(agent, transport, metrics, progress, keep_certificate_fresh, announce, keep_up)
        ready = True
        try:
            rounds.run()
        finally:
            transport.close()


def _kept_results(agent: AgentConfig, transport: "Transport", progress: "Progress") -> Callable[[], None]:
    """Return what fetches the results that this silo wants to have."""
    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.checkpoint.model_folder import model_folder
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.consent.state_store import STATE_FILE, StateStore
    from silo_agent.delivery.fetch import ResultFetcher
    from silo_agent.delivery.kept_results import KeptResults
    from silo_agent.delivery.settled_rounds import settle_accusations
    from silo_agent.identity.own_files import read_roster

    folder = agent.fetch_results
    if folder is None:
        return lambda: None

    def fetcher() -> ResultFetcher:
        roster, weights = read_roster(agent.roster, agent.suite), DenseWeights.open(model_folder(agent.model))
        return ResultFetcher(transport, weights, roster, folder, progress)

    def settle(result: Path) -> None:
        settle_accusations(agent.state, agent.silo, result, read_roster(agent.roster, agent.suite))

    store, audit = StateStore(agent.state / STATE_FILE), AuditLog(agent.state)
    return KeptResults(folder, transport, store, audit, fetcher, settle).keep_up


def _wait_for_roster(agent: AgentConfig) -> None:
    """Return when a roster is pinned, where the agent is to stay; otherwise at once."""
    if agent.stay and not agent.roster.exists():
        _log.warning("%s: no roster is pinned yet: silo-agent roster show, then pin", agent.roster)
        while not agent.roster.exists():
            sleep(ROSTER_SECONDS)
