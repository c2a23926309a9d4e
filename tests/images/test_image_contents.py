"""What is in the images, and what is not; and that the same pins give the same image."""

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from images.containers import Container
from images.image_builds import IMAGES, ROOT, build, call, inspect

pytestmark = pytest.mark.minutes

INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({each.metadata["Name"]: each.version for each in distributions()}))
"""
NOT_NEEDED = ("cc", "gcc", "g++", "ld", "make", "pip", "pip3", "curl", "wget", "ssh", "git")
FIND = "import json, shutil, sys; print(json.dumps([name for name in sys.argv[1:] if shutil.which(name)]))"


def python(image: str, script: str, *arguments: str) -> Any:
    """What a script prints as JSON in a container of this image."""
    container = Container("", build(image), "none", {}, {}, {})
    ran = container.once("-c", script, *arguments, entrypoint="python")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


@pytest.mark.parametrize("image", IMAGES)
def test_config_says_who_runs_what(image: str) -> None:
    found = inspect(build(image))["Config"]
    assert (found["User"], found["Entrypoint"]) == ("65532:65532", [image])
    assert "HOME=/tmp" in found["Env"] and "PYTHONDONTWRITEBYTECODE=1" in found["Env"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    label = {name.removeprefix("org.opencontainers.image."): text for name, text in found["Labels"].items()}
    assert label["title"] == f"sparsilo {image}"
    assert (label["version"], label["licenses"]) == (project["version"], project["license"])
    assert {*label} >= {"description", "revision"}


@pytest.mark.parametrize("image", IMAGES)
def test_has_no_compiler_no_installer_no_cuda(image: str) -> None:
    assert python(image, FIND, *NOT_NEEDED) == []
    assert python(image, "import importlib.util as u, json; print(json.dumps(u.find_spec('pip') is None))") is True
    assert python(image, "import json, torch; print(json.dumps(torch.version.cuda))") is None
    names = python(image, INSTALLED)
    assert not [name for name in names if name.startswith(("nvidia", "triton", "pytest", "cyclonedx"))]


@pytest.mark.parametrize("image", IMAGES)
def test_has_the_pinned_versions_and_its_bill_of_materials_lists_them_all(image: str) -> None:
    installed = {normal(name): version for name, version in python(image, INSTALLED).items()}
    pins = pinned(ROOT / "constraints.txt") | pinned(ROOT / "deploy" / "images" / "build-tools.txt")
    own = installed.pop("sparsilo")
    assert own == metadata.version("sparsilo")
    assert {name: version.removesuffix("+cpu") for name, version in installed.items()} == {
        name: pins.get(name) for name in installed
    }
    bill = python(image, "print(open('/usr/share/sparsilo/sbom.json').read())")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == ("sparsilo", own)
    listed = {each["purl"]: each["version"] for each in bill["components"]}
    assert {normal(kind(url)[1]): version for url, version in listed.items() if kind(url)[0] == "pypi"} == installed
    packages = python(image, DEBIAN)
    assert {kind(url)[1]: version for url, version in listed.items() if kind(url)[0] == "deb/debian"} == packages


DEBIAN = """
import json, subprocess
shown = subprocess.run(["dpkg", "-l"], capture_output=True, text=True, check=True, env={"COLUMNS": "500"}).stdout
rows = [line.split() for line in shown.splitlines() if line.startswith("ii")]
print(json.dumps({row[1].split(":")[0]: row[2] for row in rows}))
"""


def test_the_same_pins_give_the_same_image() -> None:
    """Built again from nothing: every layer has the same digest. Whoever edits the sources meanwhile sees it fail."""
    again = build("aggregator", "localhost/sparsilo-again", "--no-cache")
    try:
        first, second = inspect(build("aggregator")), inspect(again)
        assert second["RootFS"]["Layers"] == first["RootFS"]["Layers"]
        assert second["Digest"] == first["Digest"]
    finally:
        call("podman", "rmi", "--force", again)


def test_the_images_differ_in_what_they_start() -> None:
    """They stand on the same layer of dependencies, so that a node that has one need not fetch it for the other."""
    layers = [inspect(build(image))["RootFS"]["Layers"] for image in IMAGES]
    assert layers[0] == layers[1]


def pinned(file: Path) -> dict[str, str]:
    lines = (line.partition("==") for line in file.read_text().splitlines() if "==" in line)
    return {normal(name): version for name, _, version in lines}


def normal(name: str) -> str:
    """As PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def kind(url: str) -> tuple[str, str]:
    """Of a package URL: its type with the namespace, and the name."""
    found = re.fullmatch(r"pkg:((?:\w+/)*\w+)/([^/@]+)@.+", url)
    assert found, url
    return found[1], found[2]
