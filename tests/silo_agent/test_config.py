"""Every mistake in an agent's config is named with its file and field."""

from pathlib import Path

import pytest
import yaml

from crypto.errors import ConfigError
from crypto.names import Backend, Suite
from silo_agent.config import AgentConfig

PATHS = {
    "model": "dense",
    "calibration": "texts/notes.txt",
    "state": "../state",
    "signing_key": "signing_key",
    "roster": "/etc/sparsilo/roster.yaml",
    "certificate": "tls.crt",
    "private_key": "tls.key",
    "authority": "ca.crt",
    "policy": "policy.yaml",
}
GIVEN: dict[str, object] = {"silo": "ward-3", "aggregator": "host:50051", **PATHS}


def config(folder: Path, given: object) -> Path:
    file = folder / "agent.yaml"
    file.write_text(given if isinstance(given, str) else yaml.safe_dump(given))
    return file


def test_fields_defaults_and_paths_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    read = AgentConfig.read(config(tmp_path, GIVEN))
    assert (read.silo, read.aggregator) == ("ward-3", "host:50051")
    assert (read.backend, read.suite, read.device) == (Backend.DOUBLE_MASKING, Suite.DEFAULT, "cpu")
    assert (read.proxy, read.proxy_file, read.reconnect_seconds) == ("", None, 60)
    assert (read.renew_certificate, read.stay) == (False, False)
    assert (read.capacity, read.sparsity_ratio) == (0, "")
    assert (read.metrics_host, read.metrics_port) == ("127.0.0.1", 0)
    for field, path in PATHS.items():
        assert getattr(read, field) == (Path(path) if path.startswith("/") else Path(f"{tmp_path}/{path}"))


def test_a_model_that_is_no_folder_is_a_hub_id(tmp_path: Path) -> None:
    assert AgentConfig.read(config(tmp_path, GIVEN | {"model": "owner/dense@v2"})).model == "owner/dense@v2"


def test_fields_that_have_defaults_can_be_given(tmp_path: Path) -> None:
    more = {"backend": "insecure_plaintext", "device": "cuda:1", "metrics_host": "0.0.0.0", "metrics_port": 9100}  # noqa: S104
    more |= {"suite": "fips", "proxy": "none", "proxy_file": "proxy", "reconnect_seconds": 5}
    more |= {"renew_certificate": True, "stay": True}
    more |= {"capacity": 7, "sparsity_ratio": "0.3"}
    read = AgentConfig.read(config(tmp_path, GIVEN | more))
    assert (read.backend, read.suite) == (Backend.INSECURE_PLAINTEXT, Suite.FIPS)
    assert (read.proxy, read.proxy_file, read.reconnect_seconds) == ("none", tmp_path / "proxy", 5)
    assert (read.renew_certificate, read.stay) == (True, True)
    assert (read.capacity, read.sparsity_ratio) == (7, "0.3")
    assert (read.device, read.metrics_host, read.metrics_port) == ("cuda:1", "0.0.0.0", 9100)  # noqa: S104


@pytest.mark.parametrize("field", GIVEN)
def test_a_missing_field(field: str, tmp_path: Path) -> None:
    file = config(tmp_path, {name: value for name, value in GIVEN.items() if name != field})
    with pytest.raises(ConfigError) as refused:
        AgentConfig.read(file)
    assert refused.value.message == f"{file}: {field}: is missing"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        *(
            (field, value, "must be a text")
            for field in [*GIVEN, "backend", "suite", "device", "sparsity_ratio"]
            for value in (7, "", None, ["x"])
        ),
        *(
            (field, value, "whole number")
            for field in ("metrics_port", "reconnect_seconds", "capacity")
            for value in ("9100", 1.5, True, None)
        ),
        ("suite", "FIPS", "'FIPS' is unknown"),
        ("suite", Suite.FIPS.value, "is unknown"),
        ("backend", "double-masking", "'double-masking' is unknown"),
        ("backend", "DOUBLE_MASKING", "is unknown"),
        ("calibrations", "x", "unknown field"),
        ("Silo", "x", "unknown field"),
    ],
)
def test_a_wrong_field(field: str, value: object, problem: str, tmp_path: Path) -> None:
    file = config(tmp_path, GIVEN | {field: value})
    with pytest.raises(ConfigError) as refused:
        AgentConfig.read(file)
    assert refused.value.message.startswith(f"{file}: {field}: ")
    assert problem in refused.value.message
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("silo: a\nmodel: [", "line 2: is not YAML"),
        ("silo: a\n  model: b: c\n", "line 2: is not YAML"),
        ("silo: !!python/object:os.system x", "line 1: has an anchor, an alias or a tag"),
        ("silo: 2024-13-01", "is not YAML"),  # PyYAML's own ValueError: a date, but not one
        ("metrics_port: 0x_", "is not YAML"),
        ("silo: \0", "is not YAML"),
        ("", "`field: value`"),
        ("- silo\n", "`field: value`"),
        ("just text", "`field: value`"),
        ("1: one\n", "`field: value`"),
    ],
)
def test_a_file_that_is_no_mapping(content: str, problem: str, tmp_path: Path) -> None:
    file = config(tmp_path, content)
    with pytest.raises(ConfigError) as refused:
        AgentConfig.read(file)
    assert refused.value.message.startswith(f"{file}: ")
    assert problem in refused.value.message
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        AgentConfig.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("silo: é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8"):
        AgentConfig.read(tmp_path / "latin.yaml")
