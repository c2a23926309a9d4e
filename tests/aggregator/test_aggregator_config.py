"""aggregator.yaml: what its fields may say."""

from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig
from crypto.errors import ConfigError

FILE = "public_address: localhost:8443\nmodel: dense\nstate: state\n"


def read(folder: Path, more: str) -> AggregatorConfig:
    file = folder / "aggregator.yaml"
    file.write_text(FILE + more)
    return AggregatorConfig.read(file)


def test_a_journal_is_a_server_or_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "").journal == ""
    url = "postgresql://sparsilo@db.example:5432/rounds?sslmode=verify-full"
    assert read(tmp_path, f"journal: {url}").journal == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("rounds.sqlite", "must be postgresql://"),
        ("mysql://db/rounds", "must be postgresql://"),
        ("postgresql://[::1/rounds", "must be postgresql://"),
        ("postgresql://sparsilo:secret@db/rounds", "has a password"),
        ("postgresql://db/rounds?user=a&password=secret", "has a password"),
        ("postgresql://db/rounds?sslkey=a&sslpassword=secret", "has a password"),
    ],
)
def test_a_journal_elsewhere_or_with_a_password_is_refused(url: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"aggregator.yaml: journal: {problem}") as refused:
        read(tmp_path, f'journal: "{url}"')
    assert "secret" not in str(refused.value)
