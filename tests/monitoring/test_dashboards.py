"""The two Grafana dashboards that the charts ship: as generated, of Grafana's schema, about the metrics there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.documented_metrics import documented
from monitoring.make_dashboards import dashboards
from monitoring.prometheus_server import DASHBOARDS, queries

ROLES = dict(zip(DASHBOARDS, ("aggregator", "silo"), strict=True))
boards = pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def panels(board: Any) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def test_committed_is_what_is_generated() -> None:
    assert {file: file.read_text(encoding="utf-8") for file in DASHBOARDS} == dashboards(), (
        "python tests/monitoring/make_dashboards.py writes them"
    )


@boards
def test_grafanas_own_schema_has_every_key(file: Path) -> None:
    """What its reader does not know it leaves out."""
    board = read(file)
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    assert again == board


@boards
def test_panels_say_what_they_show(file: Path) -> None:
    board = read(file)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            legends = len(panel["targets"]) > 1 or " by (" in target["expr"]
            assert target["legendFormat"] or not legends, panel["title"]


@boards
def test_panels_lie_side_by_side(file: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in read(file)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@boards
def test_queries_use_every_variable_and_metrics_of_the_role(file: Path) -> None:
    board, contract = read(file), documented(ROLES[file])
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    used = set()
    for _, target in queries(board):
        expression = target["expr"]
        series = re.findall(r"(sparsilo_\w+)(\{[^}]*\})", expression)
        assert series
        for name, labels in series:
            used.add(re.sub("_bucket$", "", name))
            assert re.fullmatch(
                r'\{namespace=~"\$namespace", job=~"\$job", instance=~"\$instance"(, budget="epsilon")?\}', labels
            )
        counted = {name for name, _ in series if name.endswith(("_total", "_bucket"))}
        assert counted == set(
            re.findall(r"(?:rate|increase)\((sparsilo_\w+)\{[^}]*\}\[\$__(?:rate_interval|range)\]\)", expression)
        )
    assert used == set(contract), "every metric of the role is shown, and no other"
