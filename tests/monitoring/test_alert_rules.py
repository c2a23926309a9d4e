"""The alerts that the charts ship: as promtool reads and runs them, each tested, each with a runbook that holds."""

import re
import shlex
from pathlib import Path
from subprocess import STDOUT, run
from typing import Any

import click
import pytest
import yaml

from aggregator.cli import cli as aggregator
from monitoring.documented_metrics import OPERATIONS, documented
from monitoring.prometheus_server import RULES, program
from silo_agent.cli import cli as silo_agent

TESTS = {RULES[0]: "aggregator_alerts.yaml", RULES[1]: "silo_alerts.yaml"}
METRICS = documented("aggregator") | documented("silo")
COMMANDS = {"aggregator": aggregator, "silo-agent": silo_agent}
rules = pytest.mark.parametrize("file", RULES, ids=lambda file: file.parts[-3])


def alerts(file: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: object) -> None:
    ran = run([program("promtool"), *map(str, arguments)], stdout=-1, stderr=STDOUT, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def runbooks() -> dict[str, str]:
    """By alert, the text of its section."""
    _, text = OPERATIONS.read_text(encoding="utf-8").split("\n## Runbooks\n")
    _, *sections = re.split(r"^### (\w+)$", text.split("\n## ")[0], flags=re.MULTILINE)
    return dict(zip(sections[::2], sections[1::2], strict=True))


@pytest.mark.parts
@rules
def test_promtool_accepts_them(file: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", file)


@pytest.mark.parts
@rules
def test_each_fires_when_it_should_and_not_before(file: Path) -> None:
    tests = Path(__file__).parent / TESTS[file]
    promtool("test", "rules", tests)
    shown = set(re.findall(r'alertname="(\w+)", alertstate="firing"', tests.read_text()))
    shown |= {
        case["alertname"]
        for each in yaml.safe_load(tests.read_text())["tests"]
        for case in each.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert shown == {alert["alert"] for alert in alerts(file)}


@rules
def test_each_says_what_is_wrong_and_where_to_read_on(file: Path) -> None:
    for alert in alerts(file):
        name = alert["alert"]
        assert name.startswith("Sparsilo")
        assert alert["labels"] == {"severity": alert["labels"]["severity"]}
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["description"].endswith(".")
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert set(re.findall(r"sparsilo_\w+", alert["expr"])) <= set(METRICS), name


def test_a_runbook_an_alert_in_order() -> None:
    assert list(runbooks()) == [alert["alert"] for file in RULES for alert in alerts(file)]


@pytest.mark.parametrize(("alert", "text"), runbooks().items(), ids=runbooks())
def test_commands_of_the_runbooks_exist(alert: str, text: str) -> None:
    """Every one is a command of this version, with the arguments and options that it takes."""
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert commands
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program in (*COMMANDS, "kubectl", "openssl"), line
        command: click.Command | None = COMMANDS.get(program)
        if command is None:
            continue
        while isinstance(command, click.Group):
            name, *arguments = arguments
            assert name in command.commands, line
            command = command.commands[name]
        command.make_context(line, arguments)  # raises UsageError


def test_links_of_the_runbooks_lead_somewhere() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
