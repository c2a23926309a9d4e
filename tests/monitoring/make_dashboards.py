"""Writes the two Grafana dashboards that the charts ship: `python tests/monitoring/make_dashboards.py`."""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, gauge, prometheus, stat, statetimeline
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model

HELM = Path(__file__).parents[2] / "deploy" / "helm"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = '{namespace=~"$namespace", job=~"$job", instance=~"$instance"}'
WIDTH = 24
GOOD, WARN, BAD, CALM = "green", "orange", "red", "text"

Target = tuple[str, str]
"""PromQL, in which % stands for the chosen series' labels, alone or before others in braces, and the legend."""


def dashboards() -> dict[Path, str]:
    """Each dashboard's file and JSON."""
    made = {HELM / "aggregator/dashboards/rounds.json": rounds(), HELM / "silo-agent/dashboards/silo.json": silo()}
    return {file: json.dumps(board, cls=JSONEncoder, indent=2) + "\n" for file, board in made.items()}


def rounds() -> model.Dashboard:
    role = "aggregator"
    board = Board("Sparsilo rounds", "sparsilo-rounds", role, "The coordinator's view: rounds, silos, bytes.")
    board.row("Now")
    board.number(
        "Silos",
        "Silos that called within the last 90 seconds, and silos enrolled.",
        ("sum(sparsilo_aggregator_connected_silos%)", "connected"),
        ("sum(sparsilo_aggregator_enrolled_silos%)", "enrolled"),
        width=5,
    )
    board.number(
        "Last round",
        "Silos in the present plan's roster, and survivors of the last round.",
        ("max(sparsilo_aggregator_survivors%)", "survivors"),
        ("max(sparsilo_aggregator_silos%)", "silos"),
        width=5,
    )
    board.number(
        "Dropped",
        "Silos that fell silent in a round, within the time shown.",
        ("round(sum(increase(sparsilo_aggregator_dropped_total%[$__range])))", "dropped"),
        steps=((None, GOOD), (1, WARN)),
        width=3,
    )
    ages(board, role, 4)
    version(board, role, 3)
    board.row("Rounds")
    timeline(board, role)
    board.graph(
        "Silos and survivors",
        "A gap between the lines is a silo that was dropped, or one that is not connected.",
        ("max(sparsilo_aggregator_silos%)", "in the plan"),
        ("max(sparsilo_aggregator_survivors%)", "survivors"),
        ("sum(sparsilo_aggregator_connected_silos%)", "connected"),
        width=8,
    )
    board.graph(
        "Silos awaited",
        "Whom the present phase waits for, and who of them has used up half of its time.",
        ("sum(sparsilo_aggregator_awaited_silos%)", "awaited"),
        ("sum(sparsilo_aggregator_late_silos%)", "late"),
        width=8,
    )
    board.bars(
        "Silos dropped, by phase",
        "In which phase they fell silent.",
        ("sum by (phase) (increase(sparsilo_aggregator_dropped_total%[$__rate_interval]))", "{{phase}}"),
        width=8,
    )
    outcomes(board, role, 8)
    board.totals(
        "Runs by outcome",
        "Whole plans that ended within the time shown.",
        ("round(sum by (outcome) (increase(sparsilo_aggregator_runs_total%[$__range])))", "{{outcome}}"),
        width=8,
    )
    board.totals(
        "Rounds declined, by release kind",
        "Silos that would not take part, within the time shown: their policy or their people said no.",
        ("round(sum by (release) (increase(sparsilo_aggregator_declined_total%[$__range])))", "{{release}}"),
        width=8,
    )
    board.row("Cost and callers")
    costs(board, role)
    board.bars(
        "Calls refused, by reason",
        "Calls of known certificate authorities that were not heard: expired, revoked, unknown or too old.",
        ("sum by (reason) (increase(sparsilo_aggregator_refused_calls_total%[$__rate_interval]))", "{{reason}}"),
        width=8,
    )
    return board.build()


def silo() -> model.Dashboard:
    role = "silo"
    board = Board("Sparsilo silo", "sparsilo-silo", role, "A silo's own view: connection, approvals, budget, rounds.")
    board.row("Now")
    for title, description, name in (
        ("Aggregator", "Whether the aggregator answers.", "connected"),
        ("Roster", "Whether this silo has pinned a roster; without one it takes part in nothing.", "roster_pinned"),
    ):
        board.number(
            title,
            description,
            (f"min(sparsilo_silo_{name}%)", ""),
            steps=((None, BAD), (1, GOOD)),
            words={"0": "no", "1": "yes"},
            width=2,
        )
    board.number(
        "Accusations",
        "Rounds that ended after this silo had signed what they opened. Too many stop it.",
        ("max(sparsilo_silo_accusations%)", ""),
        steps=((None, GOOD), (1, WARN)),
        width=3,
    )
    board.number(
        "Plans that wait",
        "Plans that nobody has approved or rejected yet.",
        ("sum(sparsilo_silo_pending_plans%)", "pending"),
        steps=((None, GOOD), (1, WARN)),
        width=3,
    )
    board.dial(
        "Budget spent",
        "Part of the policy's budget that is spent; no plan is accepted beyond all of it.",
        ("max by (budget) (sparsilo_silo_budget_spent_ratio%)", "{{budget}}"),
        width=3,
    )
    ages(board, role, 4)
    version(board, role, 3)
    board.row("Rounds")
    timeline(board, role)
    board.graph(
        "Blocks pruned",
        "Blocks of the model that this silo has pruned for the present plan, and how many there are.",
        ("sum(sparsilo_silo_blocks_done%)", "done"),
        ("sum(sparsilo_silo_blocks%)", "blocks"),
        width=8,
    )
    board.graph(
        "Budget spent over time",
        "An alert fires at 80 %, another at 100 %.",
        ("max by (budget) (sparsilo_silo_budget_spent_ratio%)", "{{budget}}"),
        unit="percentunit",
        steps=BUDGET,
        width=8,
    )
    board.totals(
        "Decisions",
        "Plans approved or rejected by people or by the policy's approval, and refused by a bound of the policy.",
        ("round(sum by (decision) (increase(sparsilo_silo_decisions_total%[$__range])))", "{{decision}}"),
        width=8,
    )
    outcomes(board, role, 8)
    board.row("Privacy")
    board.dial(
        "Epsilon spent",
        "Part of the epoch's privacy budget that is spent; infinite after a round without noise.",
        ('max(sparsilo_silo_budget_spent_ratio%{budget="epsilon"})', ""),
        width=8,
    )
    board.graph(
        "Epsilon spent over time",
        "It falls only where the policy has a new epoch or a larger budget. What is infinite is not drawn.",
        ('max(sparsilo_silo_budget_spent_ratio%{budget="epsilon"})', ""),
        unit="percentunit",
        steps=BUDGET,
        width=16,
    )
    board.row("Cost")
    costs(board, role)
    board.graph(
        "Connection and plans that wait",
        "Connected is 1 while the aggregator answers.",
        ("min(sparsilo_silo_connected%)", "connected"),
        ("sum(sparsilo_silo_pending_plans%)", "plans that wait"),
        width=8,
    )
    return board.build()


def ages(board: "Board", role: str, width: int) -> None:
    board.number(
        "Since the last round",
        "Time since the last round that was done.",
        (f"time() - max(sparsilo_{role}_last_round_timestamp_seconds% > 0)", "ago"),
        unit="s",
        width=width,
    )
    board.number(
        "Certificate",
        "Days until the own certificate ends. An alert fires below 7.",
        (f"(min(sparsilo_{role}_certificate_expiry_timestamp_seconds% > 0) - time()) / 86400", "left"),
        unit="d",
        steps=((None, BAD), (7, WARN), (30, GOOD)),
        width=width,
    )


def version(board: "Board", role: str, width: int) -> None:
    board.number(
        "Version",
        "Processes that answer, by version.",
        (f"count by (version) (sparsilo_{role}_build_info%)", "{{version}}"),
        text=shapes.BigValueTextMode.VALUE_AND_NAME,
        width=width,
    )


def timeline(board: "Board", role: str) -> None:
    board.timeline(
        "Phases",
        "The present round's phase, from PLAN to AUDIT, then done or aborted.",
        (f"max by (sparsilo_{role}_phase) (sparsilo_{role}_phase%)", f"{{{{sparsilo_{role}_phase}}}}"),
    )


def outcomes(board: "Board", role: str, width: int) -> None:
    board.totals(
        "Rounds by outcome",
        "Rounds that ended within the time shown.",
        (f"round(sum by (outcome) (increase(sparsilo_{role}_rounds_total%[$__range])))", "{{outcome}}"),
        width=width,
    )


def costs(board: "Board", role: str) -> None:
    board.graph(
        "Message bytes",
        "Without framing; masked words are almost all of it.",
        (f"sum(rate(sparsilo_{role}_received_bytes_total%[$__rate_interval]))", "received"),
        (f"sum(rate(sparsilo_{role}_sent_bytes_total%[$__rate_interval]))", "sent"),
        unit="Bps",
        width=8,
    )
    buckets = f"sum by (le, phase) (increase(sparsilo_{role}_phase_seconds_bucket%[$__range]))"
    board.totals(
        "Phase seconds",
        "Median and 95th percentile of a phase's wall time, within the time shown; interpolated in coarse buckets.",
        (f"histogram_quantile(0.5, {buckets}) >= 0", "{{phase}} median"),
        (f"histogram_quantile(0.95, {buckets}) >= 0", "{{phase}} p95"),
        unit="s",
        width=8,
    )


Steps = Sequence[tuple[float | None, str]]
BUDGET: Steps = ((None, GOOD), (0.8, WARN), (1, BAD))


class Board:
    """One dashboard; panels fill rows from left to right, numbered from 1."""

    def __init__(self, title: str, uid: str, role: str, description: str) -> None:
        self._board = (
            dashboard.Dashboard(title).uid(uid).description(description).tags(["sparsilo"]).timezone("browser")
        )
        self._board.time("now-24h", "now").refresh("1m").tooltip(model.DashboardCursorSync.CROSSHAIR).readonly()
        source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        self._board.with_variable(source)
        series = f"sparsilo_{role}_build_info"
        for name, within in (
            ("namespace", ""),
            ("job", '{namespace=~"$namespace"}'),
            ("instance", '{namespace=~"$namespace", job=~"$job"}'),
        ):
            variable = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE)
            variable.query(f"label_values({series}{within}, {name})").refresh(
                model.VariableRefresh.ON_TIME_RANGE_CHANGED
            )
            variable.multi(True).include_all(True).all_value(".*").sort(model.VariableSort.ALPHABETICAL_ASC)
            variable.current(model.VariableOption(selected=True, text="All", value="$__all"))
            self._board.with_variable(variable)
        self._ids: Iterator[int] = count(1)
        self._x = self._y = self._height = 0

    def build(self) -> model.Dashboard:
        return self._board.build()

    def row(self, title: str) -> None:
        self._break()
        row = dashboard.Row(title).id(next(self._ids)).grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=self._y))
        self._board.with_row(row)
        self._y += 1

    def number(
        self,
        title: str,
        description: str,
        *targets: Target,
        width: int,
        unit: str = "short",
        steps: Steps = ((None, CALM),),
        words: dict[str, str] | None = None,
        text: shapes.BigValueTextMode = shapes.BigValueTextMode.AUTO,
    ) -> None:
        panel = stat.Panel().graph_mode(shapes.BigValueGraphMode.NONE).text_mode(text).no_value("none yet")
        if words:
            texts = {value: model.ValueMappingResult(text=word) for value, word in words.items()}
            panel.mappings([model.ValueMap(texts)])
        self._add(panel, title, description, targets, width, 5, unit, steps, instant=True)

    def dial(self, title: str, description: str, *targets: Target, width: int) -> None:
        panel = gauge.Panel().min(0).max(1).show_threshold_markers(True)
        self._add(panel, title, description, targets, width, 5, "percentunit", BUDGET, instant=True)

    def totals(self, title: str, description: str, *targets: Target, width: int, unit: str = "short") -> None:
        panel = bargauge.Panel().orientation(shapes.VizOrientation.HORIZONTAL).min(0)
        panel.display_mode(shapes.BarGaugeDisplayMode.BASIC)
        self._add(panel, title, description, targets, width, 9, unit, ((None, "blue"),), instant=True)

    def graph(
        self,
        title: str,
        description: str,
        *targets: Target,
        width: int,
        unit: str = "short",
        steps: Steps = (),
    ) -> None:
        panel = lines.Panel().min(0).fill_opacity(10).show_points(shapes.VisibilityMode.NEVER)
        if steps:
            panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.LINE))
        self._add(panel, title, description, targets, width, 9, unit, steps or ((None, GOOD),))

    def bars(self, title: str, description: str, *targets: Target, width: int) -> None:
        panel = lines.Panel().min(0).draw_style(shapes.GraphDrawStyle.BARS).fill_opacity(80)
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
        self._add(panel, title, description, targets, width, 9, "short", ((None, GOOD),))

    def timeline(self, title: str, description: str, *targets: Target) -> None:
        panel = statetimeline.Panel().show_value(shapes.VisibilityMode.NEVER).merge_values(True).row_height(0.9)
        colours = {"0": model.ValueMappingResult(text="no", color="transparent")}
        colours["1"] = model.ValueMappingResult(text="yes", color="blue")
        panel.mappings([model.ValueMap(colours)]).legend(common.VizLegendOptions().show_legend(False))
        self._add(panel, title, description, targets, WIDTH, 10, "short", ((None, CALM),))

    def _add(
        self,
        panel: Any,  # the builders of the kinds of panel share their methods, not a type
        title: str,
        description: str,
        targets: Sequence[Target],
        width: int,
        height: int,
        unit: str,
        steps: Steps,
        instant: bool = False,
    ) -> None:
        if self._x + width > WIDTH:
            self._break()
        panel.id(next(self._ids)).title(title).description(description).datasource(SOURCE).unit(unit)
        panel.grid_pos(model.GridPos(h=height, w=width, x=self._x, y=self._y))
        panel.thresholds(
            dashboard.ThresholdsConfig()
            .mode(model.ThresholdsMode.ABSOLUTE)
            .steps([model.Threshold(value, colour) for value, colour in steps])
        )
        for ref, (expression, legend) in zip("ABCD", targets, strict=False):
            chosen = expression.replace("%{", CHOSEN.replace("}", ", ")).replace("%", CHOSEN)
            query = prometheus.Dataquery().expr(chosen).legend_format(legend).ref_id(ref)
            panel.with_target((query.instant() if instant else query.range()).datasource(SOURCE))
        self._board.with_panel(panel)
        self._x += width
        self._height = max(self._height, height)

    def _break(self) -> None:
        self._y += self._height
        self._x = self._height = 0


if __name__ == "__main__":
    for file, text in dashboards().items():
        file.write_text(text, encoding="utf-8")
