"""A config file and what overrides it: a flag beats the environment, that beats the file, that beats the default.

Read once, checked field by field; every mistake is named with where it was made.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, Final, Protocol, TypeVar, get_args, get_origin, get_type_hints

import yaml

from crypto.errors import ConfigError, SparsiloError
from crypto.names import Suite
from crypto.pruning.sparsity import parse_ratio
from silo_agent.settings.plain_yaml import read_mapping

PREFIX: Final = "SPARSILO_"
"""Environment variables that override a field are named so, and then as the field in capitals."""
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
"""An environment that overrides nothing."""
_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?(e-?[0-9]{1,2})?")
"""YAML takes 1e-6, which has no dot, for a text."""


class Config(Protocol):
    """A dataclass of config fields, whose types say how each is read from text."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


_Kind = TypeVar("_Kind", bound=Config)


def read_config(
    kind: type[_Kind], file: Path, environment: Mapping[str, str], flags: Sequence[str]
) -> tuple[_Kind, dict[str, str]]:
    """Read `file` as a `kind` (a dataclass); return it, and by field where its value comes from.

    `flags` have the form FIELD=VALUE. Paths in the file are relative to its folder, others to the current one. Raises
    ConfigError naming file and field.
    """
    known, hints = {field.name: field for field in fields(kind)}, get_type_hints(kind)
    origins = {name: "default" for name, field in known.items() if {field.default, field.default_factory} != {MISSING}}
    values: dict[str, Any] = {}
    for flag in flags:
        if "=" not in flag or not flag.partition("=")[0].isidentifier():
            raise ConfigError("--set: what is given is not FIELD=VALUE")  # it may be a secret

    def take(name: str, value: object, folder: Path, origin: str, where: str) -> None:
        """Let the field have this value, whatever a weaker layer said."""
        if name not in known:
            raise ConfigError(f"{where}: unknown field", hint=f"known: {', '.join(known)}")
        values[name] = _typed(where, hints[name], value, folder)
        origins[name] = origin

    for name, value in read_mapping(file).items():
        take(name, value, file.parent, str(file), f"{file}: {name}")
    for name in known:
        if text := environment.get(PREFIX + name.upper()):
            take(name, _parsed(hints[name], text), Path(), *2 * (PREFIX + name.upper(),))
    for flag in flags:
        name, _, text = flag.partition("=")
        take(name, _parsed(hints.get(name, str), text), Path(), "--set", f"--set {name}")
    for name in known:
        if name not in origins:
            raise ConfigError(f"{file}: {name}: is missing")
    return kind(**values), origins


def config_file(config: Config, stated: Collection[str] = ()) -> str:
    """Return the YAML of a file that `read_config` reads as `config`.

    A field that has its default is left out, unless its name is in `stated`.
    """
    written = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name in stated or getattr(config, field.name) != field.default
    }
    return yaml.safe_dump({name: _plain(value) for name, value in written.items()}, sort_keys=False)


def _plain(value: object) -> object:
    """Return a field's value as a YAML file has it."""
    if isinstance(value, Suite):
        return value.profile
    return str(value) if isinstance(value, Path | StrEnum | Decimal) else value


def _parsed(kind: object, text: object) -> object:
    """Return what YAML would make of a number or truth value; anything else stays a text."""
    if kind is int and _WHOLE.fullmatch(str(text)):
        return int(str(text))
    if kind is bool and text in ("true", "false"):
        return text == "true"
    return text


def _typed(where: str, kind: Any, value: object, folder: Path) -> object:
    """Return a field's value of the type `kind`. Raises ConfigError that begins with `where`."""
    if NoneType in get_args(kind):  # a field that need not be given; where it is, it has a value
        [kind] = {*get_args(kind)} - {NoneType}
    if kind in (bool, int):
        if type(value) is not kind:  # a truth value is an int to Python
            raise ConfigError(f"{where}: must be {'true or false' if kind is bool else 'a whole number'}")
        return value
    if kind is float:
        is_number = type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
        if not is_number:
            raise ConfigError(f"{where}: must be a number, such as 0.5")
        return float(str(value))
    if kind is Decimal:
        try:
            return parse_ratio(str(value))
        except SparsiloError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: must hold `silo: number` lines")
        [_, kind_of_item] = get_args(kind)
        return {str(name): _typed(f"{where}: {name}", kind_of_item, item, folder) for name, item in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: must be a list")
        return tuple(_typed(f"{where}: {number}", get_args(kind)[0], item, folder) for number, item in enumerate(value))
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: must be a text")
    return _text(where, kind, value, folder)


def _text(where: str, kind: Any, value: str, folder: Path) -> object:
    """Return the value of a field that is spelled as a text."""
    if kind == Path | str:
        return folder / value if (folder / value).is_dir() else value
    if kind is Path:
        return folder / value
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        choices = {member.profile if isinstance(member, Suite) else member.value: member for member in kind}
        if value not in choices:
            raise ConfigError(f"{where}: {value!r} is unknown", hint=f"known: {', '.join(choices)}")
        return choices[value]
    return value
