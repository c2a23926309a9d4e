"""`silo-agent support-bundle`: what support needs to see of a silo's agent, and nothing that is secret.

It holds versions, the config with where each value comes from, the policy, what preflight says, and the last events of
the audit log. Files of keys, text, keep masks and words are never opened for it; what is listed here is all that goes
in.
"""

import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import click

from crypto.errors import OutputError
from silo_agent.commands.checks.check import Check
from silo_agent.config import AgentConfig
from silo_agent.consent.audit_log import AUDIT_FILE
from silo_agent.host.terminal import FILE, config_options
from silo_agent.settings.config_command import config_fields
from silo_agent.settings.layered_config import read_config

AUDIT_LINES: Final = 200
"""How many of the audit log's last lines go in."""


@click.command("support-bundle")
@config_options
@click.option("--out", required=True, type=FILE, help="File to write, .tar.gz.")
def support_bundle(config: Path, settings: tuple[str, ...], out: Path) -> None:
    """Collect what support needs to see.

    Versions, config, policy, preflight's lines and the last audit events; no key, no text, no keep mask, no password.
    Look into it before you send it.
    """
    from silo_agent.commands.checks.all_checks import check_agent

    agent, origins = read_config(AgentConfig, config, os.environ, settings)
    checks = check_agent(config, datetime.now(UTC), settings)
    for name in write_bundle(out, agent, origins, checks):
        click.echo(f"{out}: {name}", err=True)


def write_bundle(out: Path, config: AgentConfig, origins: Mapping[str, str], checks: Sequence[Check]) -> list[str]:
    """Write a .tar.gz; return the names of the files in it.

    Raises OutputError where OUT exists or cannot be written.
    """
    versions = {distribution.name: distribution.version for distribution in distributions()}
    audit = config.state / AUDIT_FILE
    content = {
        "versions.json": _json({"python": platform.python_version(), "system": platform.platform(), **versions}),
        "config.json": _json(config_fields(config, origins)),
        "policy.yaml": _text(config.policy),
        "preflight.json": _json(
            [{"check": check.name, "status": check.status, "message": check.message} for check in checks]
        ),
        "audit-tail.jsonl": "".join(_text(audit).splitlines(keepends=True)[-AUDIT_LINES:]),
    }
    try:
        with tarfile.open(out, "x:gz") as bundle:
            for name, text in content.items():
                data = text.encode()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o600
                bundle.addfile(entry, io.BytesIO(data))
    except FileExistsError:
        raise OutputError(f"{out}: exists", hint="name a new file with --out") from None
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}") from None
    return list(content)


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"


def _text(file: Path) -> str:
    """Return the file's text, or a line that says why it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read: {type(error).__name__}\n"
