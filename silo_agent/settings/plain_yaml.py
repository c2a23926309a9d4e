"""The YAML of config files, rosters and invitations: mappings, lists, texts and numbers.

Others write such files too, and a small one can take minutes to read (deep nesting), stand for a huge value (aliases)
or make values that no field has (tags). So they are refused where the reader comes to them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from crypto.errors import ConfigError

MOST_BYTES: Final = 1 << 16
"""Bytes of a file: a roster of 200 silos has 35,000."""
MOST_DEPTH: Final = 8
"""How deep mappings and lists may be nested: a policy's are three deep."""
MOST_CHARACTERS: Final = 64
"""Characters of a number, date or truth value."""
_TEXT: Final = "tag:yaml.org,2002:str"


class _NotPlain(yaml.MarkedYAMLError):
    """It is YAML, and more than a config file needs. `problem` says what."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which stops where nodes are composed from what it has parsed so far."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node. Raises YAMLError."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
            raise _NotPlain(problem="has an anchor, an alias or a tag", problem_mark=event.start_mark)
        if self._depth > MOST_DEPTH:
            raise _NotPlain(problem=f"is nested more than {MOST_DEPTH} deep", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        if isinstance(node, yaml.MappingNode):
            _check_fields(node)
        self._depth -= 1
        return node


def _check_fields(node: yaml.MappingNode) -> None:
    """Raise _NotPlain for a mapping that has a field twice: YAML would take one of them, and the reader the other."""
    names = set()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in names:
            raise _NotPlain(problem="has a field for the second time", problem_mark=key.start_mark)
        names.add(key.value)


def _check_scalar(node: yaml.ScalarNode) -> None:
    """Raise _NotPlain for a number that takes long to read, and for a text that no file, name or message can have."""
    if node.tag != _TEXT and len(node.value) > MOST_CHARACTERS:
        problem = f"has a number of more than {MOST_CHARACTERS} characters"
        raise _NotPlain(problem=problem, problem_mark=node.start_mark)
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in node.value):
        raise _NotPlain(problem="has a text with a zero or half a character", problem_mark=node.start_mark)


def read_mapping(file: Path) -> Mapping[str, object]:
    """Read a YAML file that holds one mapping with text keys. Raises ConfigError naming the file."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{file}: is longer than {MOST_BYTES} bytes", hint="is it another file?")
    value = _value(file, content)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{file}: must hold `field: value` lines")
    return value


def _value(file: Path, content: bytes) -> object:
    """Return the value that a file's content stands for. Raises ConfigError naming the line."""
    try:
        loader = _Loader(content.decode())
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError, OverflowError: a date or number is none
        mark = getattr(error, "problem_mark", None)
        problem = error.problem if isinstance(error, _NotPlain) else "is not YAML"
        raise ConfigError(f"{file}: line {mark.line + 1 if mark else '?'}: {problem}") from None
