"""A model by its name: a local folder, or a hub id, whose files are downloaded once."""

import re
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # whichever httpx it uses

from crypto.errors import ModelError

_HUB_ID: Final = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")

_WANTED: Final = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""Weights, config and tokenizer. Never code, nor weights in a format that can run code."""

_UNWANTED: Final = ["*/*", "consolidated*"]
"""Subfolders have other formats, and `consolidated.safetensors` the same weights once more."""


def model_folder(name: str | Path) -> Path:
    """Return the folder that `name` means: itself where there is one, else the files of hub id `owner/name[@revision]`.

    Files lie in the hub's own cache; without a network, what is there is taken. ModelError: neither folder nor id, or
    the hub does not have it, does not allow it or cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    hub_id = _HUB_ID.fullmatch(str(name))
    if hub_id is None:
        raise ModelError(f"{name}: no such folder", hint="name a model's folder or a hub id such as owner/name")
    try:
        return Path(snapshot_download(hub_id[1], revision=hub_id[2], allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, ValueError, HTTPError) as error:  # hub, disk; no id after all; the connection
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"{name}: no such folder, and not to be had from the hub: {line}",
            hint="check the name, the network and, for gated models, that HF_TOKEN is set",
        ) from error
