"""All checks of `silo-agent preflight`, in the order in which a round would come to what they check."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from crypto.errors import SparsiloError
from crypto.names import Suite
from silo_agent.commands.checks.check import Check, failed, tried
from silo_agent.commands.checks.connection import ConnectionChecks
from silo_agent.commands.checks.crypto_library import crypto_library
from silo_agent.commands.checks.model import ModelChecks
from silo_agent.commands.checks.own_files import OwnFileChecks
from silo_agent.config import AgentConfig


def check_agent(file: Path, now: datetime, flags: Sequence[str] = (), *, online: bool = False) -> list[Check]:
    """Check the agent of the config `file`, with `flags` (FIELD=VALUE) above it.

    Raises nothing that a config can cause. `online` also goes the way to the aggregator, and asks it for the time.
    Otherwise nothing leaves this machine, but for a model that is named by its hub id.
    """
    try:
        config = AgentConfig.read(file, os.environ, flags)
    except SparsiloError as error:
        return [failed("config", error), *crypto_library(Suite.DEFAULT)]
    accepted = f"{file}: silo {config.silo}, suite {config.suite.profile}, backend {config.backend}"
    checks = {"config": Check("config", "ok", accepted)}
    for name, needed, check in _steps(config, now, online):
        missing = next((other for other in needed if checks[other].status in ("failed", "skipped")), None)
        checks[name] = Check(name, "skipped", f"not tried: {missing} comes first") if missing else tried(name, check)
    return [*checks.values(), *crypto_library(config.suite)]


def _steps(
    config: AgentConfig, now: datetime, online: bool
) -> Iterator[tuple[str, tuple[str, ...], Callable[[], str | Check]]]:
    """Yield each check with its name and the names of the checks that it stands on."""
    own, model, connection = OwnFileChecks(config, now), ModelChecks(config), ConnectionChecks(config, now)
    yield "identity", (), own.identity
    yield "TLS", (), own.tls
    yield "certificate", ("TLS",), own.certificate
    yield "policy", (), own.policy
    yield "model", (), model.model
    yield "model digest", ("model",), model.model_digest
    yield "device", (), model.device
    yield "calibration", (), model.calibration
    yield "state", (), own.state
    yield "disk", ("model", "state"), model.disk
    if online:
        yield "proxy", (), connection.proxy
        yield "name resolution", ("proxy",), connection.name_resolution
        yield "connection", ("name resolution",), connection.connection
        yield "TLS handshake", ("TLS", "connection"), connection.handshake
        yield "clock", ("TLS handshake",), connection.clock
