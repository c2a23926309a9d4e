"""A flag beats the environment, that beats the file, that beats the default; and it is known which one won."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import ConfigError
from crypto.names import Suite
from silo_agent.settings.layered_config import NOTHING, config_file, read_config


@dataclass(frozen=True)
class Config:
    name: str = "default"
    number: int = 1
    is_on: bool = False
    folder: Path | None = None
    suite: Suite = Suite.DEFAULT
    by_silo: Mapping[str, int] = field(default_factory=dict)


SPELLED = {
    "name": ("file", "environment", "flag"),
    "number": (2, 3, 4),
    "is_on": (True, True, True),
    "suite": ("fips", "fips", "fips"),
}


def read(
    folder: Path, content: str = "{}", environment: Mapping[str, str] = NOTHING, flags: Sequence[str] = ()
) -> tuple[Config, dict[str, str]]:
    file = folder / "config.yaml"
    file.write_text(content)
    return read_config(Config, file, environment, flags)


@given(st.sets(st.sampled_from(["file", "environment", "flag"])), st.sampled_from(sorted(SPELLED)))
def test_the_strongest_layer_that_has_a_field_wins(layers: set[str], name: str) -> None:
    from tempfile import TemporaryDirectory

    in_file, in_environment, in_flag = (str(value).lower() for value in SPELLED[name])
    with TemporaryDirectory() as folder:
        config, origins = read(
            Path(folder),
            f"{name}: {in_file}" if "file" in layers else "{}",
            {f"SPARSILO_{name.upper()}": in_environment} if "environment" in layers else {},
            [f"{name}={in_flag}"] if "flag" in layers else [],
        )
        winner = next((layer for layer in ("flag", "environment", "file") if layer in layers), None)
        expected = {
            "flag": (in_flag, "--set"),
            "environment": (in_environment, f"SPARSILO_{name.upper()}"),
            "file": (in_file, f"{folder}/config.yaml"),
            None: (str(getattr(Config(), name)).lower(), "default"),
        }[winner]
        value = getattr(config, name)
        assert (str(value.profile if isinstance(value, Suite) else value).lower(), origins[name]) == (
            expected[0] if winner or name != "suite" else "default",
            expected[1],
        )
        assert {origin for other, origin in origins.items() if other != name} == {"default"}


def test_paths_of_the_file_are_relative_to_it_and_others_to_where_the_command_runs(tmp_path: Path) -> None:
    assert read(tmp_path, "folder: x")[0].folder == tmp_path / "x"
    assert read(tmp_path, "folder: x", {"SPARSILO_FOLDER": "y"})[0].folder == Path("y")
    assert read(tmp_path, "folder: x", {"SPARSILO_FOLDER": "y"}, ["folder=z"])[0].folder == Path("z")
    assert read(tmp_path)[0].folder is None


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, "name: x", {"SPARSILO_NAME": ""})[0].name == "x"


def test_a_flags_value_may_have_an_equals_sign(tmp_path: Path) -> None:
    assert read(tmp_path, flags=["name=a=b"])[0].name == "a=b"


@pytest.mark.parametrize(
    ("content", "environment", "flags", "problem"),
    [
        ("nam: x", {}, [], "{file}: nam: unknown field"),
        ("{}", {}, ["nam=x"], "--set nam: unknown field"),
        ("{}", {}, ["name"], "--set: what is given is not FIELD=VALUE"),
        ("{}", {}, ["http://me:password=@host:1"], "--set: what is given is not FIELD=VALUE"),
        ("{}", {"SPARSILO_NUMBER": "x"}, [], "SPARSILO_NUMBER: must be a whole number"),
        ("{}", {"SPARSILO_NUMBER": "-1"}, [], "SPARSILO_NUMBER: must be a whole number"),
        ("{}", {"SPARSILO_IS_ON": "yes"}, [], "SPARSILO_IS_ON: must be true or false"),
        ("{}", {"SPARSILO_SUITE": "none"}, [], "SPARSILO_SUITE: 'none' is unknown"),
        ("{}", {}, ["number=1.5"], "--set number: must be a whole number"),
        ("number: true", {}, [], "{file}: number: must be a whole number"),
        ("number: '2'", {}, [], "{file}: number: must be a whole number"),
        ("is_on: 1", {}, [], "{file}: is_on: must be true or false"),
        ("by_silo: {a: x}", {}, [], "{file}: by_silo: a: must be a whole number"),
    ],
)
def test_a_mistake_is_named_with_where_it_was_made(
    content: str, environment: dict[str, str], flags: list[str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, content, environment, flags)
    assert refused.value.message.startswith(problem.format(file=tmp_path / "config.yaml"))


def test_a_written_file_reads_as_the_config_that_it_was_written_from(tmp_path: Path) -> None:
    config = Config("other", 7, is_on=True, folder=Path("/etc/x"), suite=Suite.FIPS, by_silo={"a": 2})
    assert read(tmp_path, config_file(config))[0] == config


def test_a_written_file_leaves_out_defaults_that_are_not_to_be_stated() -> None:
    assert yaml.safe_load(config_file(Config(number=7), stated=("suite",))) == {
        "number": 7,
        "suite": "default",
        "by_silo": {},
    }
