"""`config show`, for both command lines: a config as it takes effect."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from silo_agent.host.terminal import config_options, failing_as, output_option, print_envelope
from silo_agent.settings.layered_config import Config, read_config

_PROXY: Final = re.compile(r"(https?://)(?:[^\s/?#]*@)?([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})/?")
"""A proxy's URL in which it is plain what is user and password."""


def config_group(kind: type[Config]) -> click.Group:
    """Return the command group `config` for a config of class `kind`."""

    @click.group("config")
    def group() -> None:
        """Show the config as it takes effect."""

    @group.command()
    @config_options
    @click.option("--origin", is_flag=True, help="Also say where each value comes from.")
    @output_option
    def show(config: Path, settings: tuple[str, ...], origin: bool, output: str) -> None:
        """Show every field's value.

        --set beats the environment (SPARSILO_ and the field's name in capitals), that beats the file, and that the
        default.
        """
        with failing_as(output):
            fields = config_fields(*read_config(kind, config, os.environ, settings))
        if output == "json":
            print_envelope("done", data=fields)
            return
        width = max(map(len, fields))
        longest = max(len(field["value"]) for field in fields.values())
        for name, field in fields.items():
            from_where = f"  {field['origin']}" if origin else ""
            click.echo(f"{name:<{width}}  {field['value']:<{longest if origin else 0}}{from_where}")

    return group


def config_fields(config: Config, origins: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return every field's value and origin, as texts; the password of a proxy's URL is left out."""
    return {
        name: {"value": _shown(name, str(getattr(config, name))), "origin": origin} for name, origin in origins.items()
    }


def _shown(name: str, value: str) -> str:
    """Return a field's value as others may see it.

    Of a proxy that is not understood nothing is shown: anything in it may be the password.
    """
    if name == "proxy" and value not in ("", "none"):
        url = _PROXY.fullmatch(value)
        if url is None:
            return "(not shown: it is not an HTTP proxy's URL)"
        return f"{url[1]}...@{url[2]}{url[3]}" if "@" in value else value
    if name == "proxy_file" and ("@" in value or ":/" in value):
        return "(not shown: it is not a file's name)"
    return value
