"""The agent's config file (YAML): read once, checked field by field, every mistake named with its file and field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crypto.errors import ConfigError
from crypto.names import Backend, Suite
from silo_agent.host.logs import LogFormat
from silo_agent.settings.layered_config import NOTHING, read_config

SIGNING_KEY, PRIVATE_KEY, CERTIFICATE, AUTHORITY = "signing_key", "tls.key", "tls.crt", "ca.crt"
"""Files of keys and certificates beside an agent.yaml that enrolment writes."""


@dataclass(frozen=True)
class AgentConfig:
    """What one silo's agent needs to know. Paths are relative to the config file."""

    silo: str
    """This silo's name in the roster, and its certificate's subject."""
    aggregator: str
    """host:port to dial."""
    model: Path | str
    """Folder of the dense model, or a hub id, owner/name@commit, whose files are downloaded once."""
    calibration: Path
    """This silo's private text, which never leaves the machine."""
    state: Path
    """Folder for what the agent writes; it is made where it is missing."""
    signing_key: Path
    """This silo's private signing key in hex, of the suite: 32 bytes for Ed25519, 48 for ECDSA P-384."""
    roster: Path
    """YAML mapping of every silo's name to its public signing key in hex. A plan with another roster is refused."""
    certificate: Path
    """This silo's TLS certificate, PEM."""
    private_key: Path
    """The certificate's private key, PEM."""
    authority: Path
    """Certificate of the authority that the aggregator's certificate must come from, PEM."""
    policy: Path
    """What this silo agrees to: its policy.yaml."""
    backend: Backend = Backend.DOUBLE_MASKING
    """The only backend that this silo accepts in a plan."""
    suite: Suite = Suite.DEFAULT
    """The only suite that this silo accepts in a plan; its keys and the roster's are of this suite."""
    capacity: int = 0
    """With layer sampling, the number of blocks that this silo declares; 0 leaves it to the plan."""
    sparsity_ratio: str = ""
    """The sparsity ratio that this silo prunes with where the plan lists one for it; empty leaves it to the plan."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, ..."""
    metrics_host: str = "127.0.0.1"
    """Address that /metrics, /livez and /readyz listen on."""
    metrics_port: int = 0
    """The port of /metrics, /livez and /readyz; 0 takes a free one and logs it."""
    log_format: LogFormat = LogFormat.TEXT
    """How the log is written on stderr: lines of text, or a JSON object a line."""
    proxy: str = ""
    """URL of an HTTP proxy to dial through; `none` means never one, and an empty text what the environment says."""
    proxy_file: Path | None = None
    """A file that holds the proxy's URL, where it has a password."""
    retention: int | None = None
    """Of how many runs an agent that stays keeps its transcripts; None: of all."""
    fetch_results: Path | None = None
    """Folder into which an agent that stays fetches the result of every run that this silo approved, verified."""
    renew_certificate: bool = False
    """Whether the agent asks the aggregator for a new certificate at half its life, and replaces the files."""
    reconnect_seconds: int = 60
    """How long a lost connection may stay away."""
    upload_bytes_per_second: int = 0
    """How fast masked words leave at most, where others need the line too; 0 sets no bound."""
    stay: bool = False
    """Whether the agent waits for the next round after one that it refused or that failed."""

    @classmethod
    def read(cls, file: Path, environment: Mapping[str, str] = NOTHING, flags: Sequence[str] = ()) -> "AgentConfig":
        """Read agent.yaml, with `environment` and `flags` (FIELD=VALUE) above it.

        Raises ConfigError naming file and field.
        """
        config = read_config(cls, file, environment, flags)[0]
        for name in ("retention", "upload_bytes_per_second"):
            if (getattr(config, name) or 0) < 0:
                raise ConfigError(f"{file}: {name}: must not be negative", hint="leave it out to set no bound")
        return config

    @classmethod
    def beside(cls, silo: str, aggregator: str, model: Path, calibration: Path) -> "AgentConfig":
        """Return the config of an agent whose own files lie beside its agent.yaml, under their usual names."""
        return cls(
            silo=silo,
            aggregator=aggregator,
            model=model,
            calibration=calibration,
            state=Path("state"),
            signing_key=Path(SIGNING_KEY),
            roster=Path("roster.yaml"),
            certificate=Path(CERTIFICATE),
            private_key=Path(PRIVATE_KEY),
            authority=Path(AUTHORITY),
            policy=Path("policy.yaml"),
        )
