"""Builds both images as deploy/images/README.md says, from a base of Debian's own packages."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "images"
BASE = "localhost/sparsilo-base"
PACKAGES = "python3,python3-venv,ca-certificates"
IMAGES = ("aggregator", "silo-agent")
# As long as a person may wait for a download of torch.
LIMIT = 3600
CONFIG = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def call(*command: object, limit: float = 120, given: str | None = None) -> str:
    """What the command printed, with `given` on its stdin. Fails with what it said."""
    words = [str(word) for word in command]
    ran = subprocess.run(
        words, input=given, capture_output=True, text=True, timeout=limit, check=False, env=environment()
    )
    assert ran.returncode == 0, f"{' '.join(words)}: {ran.returncode}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


def environment() -> dict[str, str]:
    """With the tests' own containers.conf: Debian's podman starts nothing here without its limits."""
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "containers.conf").write_text(CONFIG)
    return {**os.environ, "CONTAINERS_CONF": str(CACHE / "containers.conf")}


def base() -> str:
    """The base image, made once: `make clean` forgets its file, `podman rmi` the image."""
    tar = CACHE / "base.tar"
    if not tar.exists():
        part = CACHE / "base.part.tar"
        call(
            *("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", part),
            limit=LIMIT,
        )
        part.rename(tar)
        call("podman", "import", tar, BASE, limit=LIMIT)
    elif not call("podman", "images", "--quiet", BASE):
        call("podman", "import", tar, BASE, limit=LIMIT)
    return BASE


@cache
def build(image: str, tag: str = "", *more: str) -> str:
    """The image's name. Layers of earlier builds are used again unless `more` says otherwise."""
    name = tag or f"localhost/sparsilo-{image}"
    started = time.monotonic()
    call(
        *("buildah", "bud", "--isolation", "chroot", "--layers", "--timestamp", "0", "--tag", name),
        *("--file", ROOT / "deploy" / "images" / image / "Containerfile"),
        *("--build-arg", f"BASE_IMAGE={base()}", "--build-arg", "TORCH_INDEX=", *index_of_this_machine(), *more),
        ROOT,
        limit=LIMIT,
    )
    print(f"{name}: {time.monotonic() - started:.0f} s, {inspect(name)['Size'] / 1e6:.0f} MB")  # noqa: T201 - shown by -rP
    return name


def inspect(image: str) -> dict[str, Any]:
    """What podman knows of an image."""
    found: dict[str, Any] = json.loads(call("podman", "image", "inspect", image))[0]
    return found


def index_of_this_machine() -> Iterator[str]:
    """The build sees the package index that pip uses here: its settings as a secret, and local folders as volumes."""
    listed = call(sys.executable, "-m", "pip", "config", "list")
    settings = dict(line.split("=", 1) for line in listed.splitlines())
    values = {name.split(".")[-1]: value.strip("'") for name, value in sorted(settings.items())}
    (CACHE / "pip.conf").write_text("".join(["[global]\n", *(f"{name} = {value}\n" for name, value in values.items())]))
    yield from ("--secret", f"id=pip.conf,src={CACHE / 'pip.conf'}")
    for word in {word.removeprefix("file://") for value in values.values() for word in value.split()}:
        # A folder of packages is in reach with what lies beside it, which its index may point to.
        place = Path(word).parent if word.endswith("/simple") else Path(word)
        if place.is_absolute() and place.exists():
            yield from ("--volume", f"{place}:{place}:ro")
