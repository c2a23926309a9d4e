"""The aggregator's config file, aggregator.yaml, checked field by field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from crypto.errors import ConfigError
from crypto.names import Suite
from silo_agent.host.logs import LogFormat
from silo_agent.network.address import split_address
from silo_agent.settings.layered_config import NOTHING, read_config


@dataclass(frozen=True)
class AggregatorConfig:
    """What `aggregator serve`, and the commands beside it, need to know. Paths are relative to the config file."""

    public_address: str
    """host:port that silos dial. The host goes into the server's certificate, and the whole into invitations."""
    model: Path | str
    """Folder of the dense model, or a hub id, owner/name@commit."""
    state: Path
    """Folder on a local disk: the authority's key, enrolments, and runs with their uploads and results."""
    journal: str = ""
    """Where rounds' journals lie: postgresql://..., a server's URL without a password; empty: files in `state`."""
    retention: int | None = None
    """Of how many runs that are over the folders stay, results among them; without it all."""
    address: str = "0.0.0.0:8443"  # the deployment's NetworkPolicy says who comes this far
    """host:port that gRPC listens on."""
    suite: Suite = Suite.DEFAULT
    """The suite of the silos' signing keys and of plans."""
    metrics_host: str = "127.0.0.1"
    """Address that /metrics, /livez and /readyz listen on."""
    metrics_port: int = 0
    """The port of /metrics, /livez and /readyz; 0 takes a free one and logs it."""
    log_format: LogFormat = LogFormat.TEXT
    """How the log is written on stderr: lines of text, or a JSON object a line."""
    certificate: Path | None = None
    """The server's own certificate, PEM; without one the aggregator's authority issues it."""
    private_key: Path | None = None
    """The private key of the server's own certificate, PEM."""
    authority: Path | None = None
    """The authority that silos are told to trust where the server has its own certificate, PEM."""
    client_authorities: Path | None = None
    """Further authorities whose client certificates are accepted, PEM. The common name is the silo's."""

    @classmethod
    def read(
        cls, file: Path, environment: Mapping[str, str] = NOTHING, flags: Sequence[str] = ()
    ) -> "AggregatorConfig":
        """Read aggregator.yaml, with `environment` and `flags` (FIELD=VALUE) above it.

        Raises ConfigError naming file and field.
        """
        config = read_config(cls, file, environment, flags)[0]
        own = {"certificate": config.certificate, "private_key": config.private_key, "authority": config.authority}
        missing = [name for name, value in own.items() if value is None]
        if 0 < len(missing) < len(own):
            raise ConfigError(f"{file}: {missing[0]}: is missing", hint="give certificate, private_key and authority")
        if config.retention is not None and config.retention < 0:
            raise ConfigError(f"{file}: retention: must not be negative", hint="leave it out to keep all")
        _check_journal(file, config.journal)
        try:
            split_address(config.public_address)
        except ConfigError:
            raise ConfigError(f"{file}: public_address: must be host:port, as silos dial it") from None
        return config

    @property
    def public_host(self) -> str:
        """The host of `public_address`."""
        return split_address(self.public_address)[0]


def _check_journal(file: Path, url: str) -> None:
    """Raises ConfigError where the URL is no PostgreSQL server's, or has a password, which `config show` prints."""
    try:
        parts = urlsplit(url)
        if url and parts.scheme not in ("postgresql", "postgres"):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{file}: journal: must be postgresql://[user@]host[:port]/database, or left out") from None
    if parts.password or any(name.endswith("password") for name in parse_qs(parts.query)):
        hint = "give it in a file: PGPASSFILE in the environment, or passfile= in the URL"
        raise ConfigError(f"{file}: journal: has a password", hint=hint)
