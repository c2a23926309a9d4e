"""What support needs to see of a silo's agent, and nothing that is secret: versions, the config with where each value
comes from, the policy, what preflight says, and the last events of the audit log.

Files of keys, text, keep masks and words are never opened for it; what is listed here is all that goes in.
"""

import io
import json
import platform
import re
import tarfile
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from crypto.errors import OutputError
from silo_agent.commands.preflight import Check
from silo_agent.config import AgentConfig
from silo_agent.consent.audit_log import AUDIT_FILE

AUDIT_LINES: Final = 200
_CREDENTIALS: Final = re.compile(r"//[^/@]*@")


def config_fields(config: Any, origins: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Every field of a config, and where it comes from; without the password of a proxy's URL."""
    return {
        name: {"value": _CREDENTIALS.sub("//...@", str(getattr(config, name))), "origin": origin}
        for name, origin in origins.items()
    }


def write_bundle(out: Path, config: AgentConfig, origins: Mapping[str, str], checks: Sequence[Check]) -> list[str]:
    """Writes a .tar.gz; the names of the files in it. Raises OutputError where OUT exists or cannot be written."""
    versions = {distribution.name: distribution.version for distribution in distributions()}
    audit = config.state / AUDIT_FILE
    content = {
        "versions.json": _json({"python": platform.python_version(), "system": platform.platform(), **versions}),
        "config.json": _json(config_fields(config, origins)),
        "policy.yaml": _text(config.policy),
        "preflight.json": _json([{"check": each.name, "status": each.status, "message": each.said} for each in checks]),
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
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read: {type(error).__name__}\n"
