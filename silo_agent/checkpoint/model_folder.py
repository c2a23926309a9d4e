"""A model by its name: a local folder, or a hub id, whose files are downloaded once; and what of the folder is read."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # whichever httpx it uses

from crypto.errors import ModelError

_HUB_ID: Final = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@(.*))?")
_COMMIT: Final = re.compile("[0-9a-f]{40}")

_READ: Final = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Suffixes of config, tokenizer and templates. Never code, nor weights in a format that can run code."""
_INDEX: Final = ".index.json"
"""How a file ends that says which file holds which tensor."""
_UNWANTED: Final = ["*/*", "consolidated*"]
"""Subfolders have other formats, and `consolidated.safetensors` the same weights once more."""


def model_folder(name: str | Path) -> Path:
    """Return the folder that `name` means: itself where there is one, else the files of hub id `owner/name@commit`.

    Files lie in the hub's own cache; without a network, what is there is taken. ModelError: neither folder nor id, an
    id without a commit of 40 hex digits, or the hub does not have it, does not allow it or cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    hub_id = _HUB_ID.fullmatch(str(name))
    if hub_id is None:
        raise ModelError(
            f"{name}: no such folder", hint="name a model's folder or a hub id such as owner/name@ and a commit"
        )
    if not _COMMIT.fullmatch(hub_id[2] or ""):
        raise ModelError(
            f"{name}: no such folder, and no hub id with a commit: what a branch or a tag means can change",
            hint=f"{hub_id[1]}@ and the 40 hex digits of the commit that was agreed on",
        )
    wanted = [f"*{suffix}" for suffix in (".safetensors", *_READ)]
    try:
        return Path(snapshot_download(hub_id[1], revision=hub_id[2], allow_patterns=wanted, ignore_patterns=_UNWANTED))
    except (OSError, ValueError, HTTPError) as error:  # hub, disk; no id after all; the connection
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"{name}: no such folder, and not to be had from the hub: {line}",
            hint="check the name, the network and, for gated models, that HF_TOKEN is set",
        ) from error


def file_digests(folder: Path) -> dict[str, bytes]:
    """Return SHA-256 of each file beside the tensors that may say what a model computes or how text becomes tokens.

    By name, ascending. Raises ModelError where one cannot be read.
    """
    names = sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file() and file.suffix in _READ and not file.name.startswith(".") and not file.name.endswith(_INDEX)
    )
    return {name: sha256(_content(folder / name)).digest() for name in names}


@contextmanager
def copied_files(folder: Path, digests: Mapping[str, bytes]) -> Iterator[Path]:
    """Yield a temporary folder that holds the files of `digests` and no other, for a library that reads what it finds.

    Raises ModelError where a file is not, or not any more, what its digest says.
    """
    with TemporaryDirectory() as scratch:
        for name, digest in digests.items():
            Path(scratch, name).write_bytes(file_content(folder / name, digest))
        yield Path(scratch)


def file_content(file: Path, digest: bytes) -> bytes:
    """Return a file's content. Raises ModelError where it is not, or not any more, what its digest says."""
    content = _content(file)
    if sha256(content).digest() != digest:
        raise ModelError(f"{file}: was changed while the model was in use", hint="start again")
    return content


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}", hint="copy the file again") from None
