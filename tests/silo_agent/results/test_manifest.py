"""A manifest has one spelling, and names nothing outside its folder."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import MalformedMessage
from silo_agent.results.manifest import MANIFEST_FILE, Manifest

PLAN = bytes(range(32))


def published(folder: Path) -> Manifest:
    (folder / "model").mkdir()
    for name in ("model/config.json", "model/model.safetensors", "report.json"):
        (folder / name).write_bytes(name.encode())
    (folder / MANIFEST_FILE).write_bytes(b"an earlier one")
    return Manifest.of_folder(PLAN, folder)


def test_it_lists_every_file(tmp_path: Path) -> None:
    manifest = published(tmp_path)
    assert [(listed.name, listed.size, listed.sha256) for listed in manifest.files] == [
        (name, len(name), sha256(name.encode()).digest())
        for name in ("model/config.json", "model/model.safetensors", "report.json")
    ]
    assert Manifest.decode(manifest.encoded) == manifest
    assert manifest.digest == sha256(manifest.encoded).digest()


def test_what_changed_is_listed_anew_and_nothing_else_is_read(tmp_path: Path) -> None:
    manifest = published(tmp_path)
    (tmp_path / "report.json").write_bytes(b"changed")
    (tmp_path / "model/config.json").write_bytes(b"changed too, and not named")
    renewed = manifest.renewed(tmp_path, ["report.json"])
    assert renewed.files[:2] == manifest.files[:2]
    assert renewed.files[2].sha256 == sha256(b"changed").digest()


NAMES = [
    *("../x", "/etc/passwd", "model/../../x", "model/a/b", "model//x", "model/", "/", "", ".", "..", ".hidden"),
    *("model/.hidden", "model\\x", "a\nb", "a\x00b", "a\x1b[0m", "x" * 256, "manifest.json", "Manifest.json"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    document = json.loads(published(tmp_path).encoded)
    document["files"].append({"name": name, "bytes": 1, "sha256": "00" * 32})
    document["files"].sort(key=lambda listed: listed["name"])
    with pytest.raises(MalformedMessage):
        Manifest.decode(f"{json.dumps(document, indent=1)}\n".encode())


Change = Callable[[Any], object]
CHANGES: dict[str, Change] = {
    "twice": lambda document: document["files"].append(document["files"][-1]),
    "in another order": lambda document: document["files"].reverse(),
    "as upper and lower case": lambda document: document["files"][0].update(name="MODEL/config.json"),
    "a file that is a folder": lambda document: document["files"][2].update(name="model"),
    "a negative size": lambda document: document["files"][0].update(bytes=-1),
    "a size that is none": lambda document: document["files"][0].update(bytes=True),
    "a short digest": lambda document: document["files"][0].update(sha256="00"),
    "upper-case hex": lambda document: document["files"][0].update(sha256=document["files"][0]["sha256"].upper()),
    "a name that is none": lambda document: document["files"][0].update(name=7),
    "more fields": lambda document: document["files"][0].update(mode=0o777),
    "another version": lambda document: document.update(schema_version=2),
    "a short plan": lambda document: document.update(plan_digest="00"),
    "no files": lambda document: document.pop("files"),
    "files that are none": lambda document: document.update(files={"a": 1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_spelling_is_refused(change: str, tmp_path: Path) -> None:
    document = json.loads(published(tmp_path).encoded)
    if change == "as upper and lower case":
        document["files"].append({**document["files"][0], "name": "model/CONFIG.json"})
        document["files"].sort(key=lambda listed: listed["name"])
    else:
        CHANGES[change](document)
    with pytest.raises(MalformedMessage):
        Manifest.decode(f"{json.dumps(document, indent=1)}\n".encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 200_000, b'{"files": []}', b"1" * 5000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Manifest.decode(data)
