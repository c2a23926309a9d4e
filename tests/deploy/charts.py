"""The two charts, rendered by the real Helm engine."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml
from manifests import Manifest, manifests_of

HELM = Path(__file__).parents[2] / "deploy/helm"
CHARTS = ("aggregator", "silo-agent")
SCENARIOS = [
    (chart, file.name.removesuffix("-values.yaml"))
    for chart in CHARTS
    for file in sorted((HELM / chart / "ci").glob("*-values.yaml"))
]
Values = dict[str, Any]


def values_of(chart: str, scenario: str = "default") -> Values:
    return yaml.safe_load((HELM / chart / f"ci/{scenario}-values.yaml").read_text())


def with_value(values: Values, path: str, value: object) -> Values:
    """`values` with the one at a dotted path replaced."""
    changed = deepcopy(values)
    *folders, last = path.split(".")
    place = changed
    for folder in folders:
        place = place.setdefault(folder, {})
    place[last] = value
    return changed


@cache
def loaded(chart: str) -> helm_python.Chart:
    return helm_python.Chart.load(HELM / chart)


def render(chart: str, values: Values, release: str = "rel") -> dict[str, str]:
    """Text by template, without the chart's name in front."""
    rendered = loaded(chart).render(values, name=release, namespace="ns")
    return {name.removeprefix(f"{chart}/templates/"): text for name, text in rendered.items()}


def manifests(chart: str, values: Values, release: str = "rel") -> list[Manifest]:
    texts = render(chart, values, release)
    return [each for name, text in texts.items() if name != "NOTES.txt" for each in manifests_of(text)]


@cache
def _scenario(chart: str, scenario: str) -> list[Manifest]:
    return manifests(chart, values_of(chart, scenario))


def scenario_manifests(chart: str, scenario: str) -> list[Manifest]:
    return deepcopy(_scenario(chart, scenario))


def one(found: list[Manifest], kind: str, suffix: str = "") -> Manifest:
    [manifest] = [each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]
    return manifest


def workload(found: list[Manifest]) -> Manifest:
    """The spec of the StatefulSet's pod."""
    return one(found, "StatefulSet")["spec"]["template"]["spec"]
