"""Who may use whom, room by room: every import between rooms is in the table, and every entry of the table is used."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench.house import circles, room, used_modules, working_tree

Uses = Mapping[str, Mapping[str, str]]
"""By room, and by package: the names there that it may import from. A room is a folder of a package with all that is in
it, or a module that lies in no folder; a name with a dot is one module of a room, and not the others.
"""

USES: Uses = {
    "crypto.backends": {"crypto": "encoding errors names plan primitives secagg"},
    "crypto.encoding": {"crypto": "errors"},
    "crypto.errors": {},
    "crypto.identity": {"crypto": "errors"},
    "crypto.names": {},
    "crypto.plan": {"crypto": "errors names pruning"},
    "crypto.plan_options": {"crypto": "errors names plan privacy pruning releases"},
    "crypto.plan_rules": {"crypto": "encoding errors names plan primitives privacy pruning releases"},
    "crypto.primitives": {"crypto": "errors names"},
    "crypto.privacy": {"crypto": "plan"},
    "crypto.pruning": {"crypto": "errors names"},
    "crypto.releases": {"crypto": "encoding errors names plan privacy pruning"},
    "crypto.roster": {"crypto": "names primitives"},
    "crypto.secagg": {"crypto": "encoding errors names plan plan_rules primitives releases"},
    "silo_agent.checkpoint": {"crypto": "errors", "silo_agent": "host"},
    "silo_agent.cli": {"silo_agent": "commands config host settings"},
    "silo_agent.commands": {
        "crypto": "errors identity names plan_rules privacy pruning roster",
        "silo_agent": "checkpoint config consent delivery host identity model network opened_sums pruning "
        "results rounds second_order settings writing",
    },
    "silo_agent.config": {"crypto": "errors names", "silo_agent": "host settings"},
    "silo_agent.consent": {
        "crypto": "backends errors names plan plan_options primitives privacy pruning releases secagg",
        "silo_agent": "checkpoint host settings",
    },
    "silo_agent.delivery": {
        "crypto": "backends errors names",
        "silo_agent": "checkpoint consent host network opened_sums results",
    },
    "silo_agent.host": {"crypto": "errors names plan_options primitives"},
    "silo_agent.identity": {
        "crypto": "errors identity names primitives roster",
        "silo_agent": "config host network settings",
    },
    "silo_agent.model": {"crypto": "errors releases", "silo_agent": "checkpoint host"},
    "silo_agent.network": {"crypto": "encoding errors identity names", "silo_agent": "host settings"},
    "silo_agent.opened_sums": {
        "crypto": "backends encoding errors names plan primitives pruning releases secagg",
        "silo_agent": "checkpoint host model pruning releases writing",
    },
    "silo_agent.pruning": {
        "crypto": "errors names plan pruning",
        "silo_agent": "checkpoint model second_order",
    },
    "silo_agent.releases": {
        "crypto": "encoding errors names plan primitives privacy pruning releases secagg",
        "silo_agent": "checkpoint model pruning second_order",
    },
    "silo_agent.results": {
        "crypto": "backends errors names plan pruning releases secagg",
        "silo_agent": "checkpoint host opened_sums pruning rounds second_order",
    },
    "silo_agent.rounds": {
        "crypto": "backends encoding errors names plan plan_rules primitives privacy pruning releases secagg",
        "silo_agent": "checkpoint config consent host identity model network opened_sums pruning releases writing",
    },
    "silo_agent.second_order": {"crypto": "names", "silo_agent": "checkpoint"},
    "silo_agent.settings": {"crypto": "errors names pruning", "silo_agent": "host"},
    "silo_agent.writing": {"crypto": "errors", "silo_agent": "checkpoint model"},
    "aggregator.cli": {"silo_agent": "host settings", "aggregator": "commands config"},
    "aggregator.commands": {
        "crypto": "backends errors identity names plan plan_options privacy pruning releases roster",
        "silo_agent": "checkpoint host network.fingerprint network.invitation",
        "aggregator": "config local results rounds.withdrawals runs serve silos",
    },
    "aggregator.config": {"crypto": "errors names", "silo_agent": "host network.address settings"},
    "aggregator.edge": {
        "crypto": "encoding errors identity",
        "silo_agent": "network.services",
        "aggregator": "limits metrics rounds silos",
    },
    "aggregator.limits": {},
    "aggregator.local": {
        "crypto": "errors identity names plan plan_options primitives pruning",
        "silo_agent": "checkpoint config host model pruning rounds.run_files",
        "aggregator": "edge local_agents metrics results rounds runs silos",
    },
    "aggregator.local_agents": {
        "crypto": "errors identity primitives roster",
        "silo_agent": "config host settings",
    },
    "aggregator.metrics": {"crypto": "names", "silo_agent": "host"},
    "aggregator.results": {
        "crypto": "backends errors names plan pruning releases",
        "silo_agent": "checkpoint host model results",
        "aggregator": "rounds",
    },
    "aggregator.rounds": {
        "crypto": "backends encoding errors names plan primitives secagg",
        "silo_agent": "host opened_sums results",
        "aggregator": "metrics",
    },
    "aggregator.runs": {
        "crypto": "errors names plan plan_options plan_rules privacy pruning releases roster secagg",
        "silo_agent": "checkpoint host model opened_sums pruning releases results settings writing",
        "aggregator": "results rounds",
    },
    "aggregator.serve": {
        "crypto": "errors plan",
        "silo_agent": "checkpoint host results",
        "aggregator": "config edge metrics rounds runs silos",
    },
    "aggregator.silos": {
        "crypto": "encoding errors identity names primitives roster",
        "silo_agent": "host",
        "aggregator": "config limits",
    },
}

SHARED = (
    *("checkpoint", "finetuning", "host", "model", "opened_sums", "pruning", "releases", "results", "second_order"),
    *("settings", "writing"),
)
"""Rooms of the agent that the aggregator may use as a whole; of `rounds` and `network` it may use single modules."""

REHEARSAL = ("aggregator.local", "aggregator.local_agents")
"""What starts agents as processes, and so writes their config files."""

GRAPH = {name: used for name, used in used_modules(working_tree(Path(__file__).parents[2])).items() if "." in name}


def entries(table: Uses, of: str) -> set[str]:
    """Full names of what a room may use."""
    return {f"{package}.{name}" for package, names in table.get(of, {}).items() for name in names.split()}


def used_beyond(name: str, used: set[str], allowed: set[str]) -> Iterator[str]:
    """What a module may not import of what it imports, arrows such as `aggregator.local -> silo_agent.config`."""
    for other in sorted(used):
        if room(other) != room(name) and not allowed & {room(other), other}:
            yield f"{name} -> {other}"


def test_the_table_has_every_room() -> None:
    assert set(USES) == {room(name) for name in GRAPH}


@pytest.mark.parametrize("of", USES)
def test_a_room_uses_what_the_table_says_and_all_of_it(of: str) -> None:
    allowed = entries(USES, of)
    modules = {name: used for name, used in GRAPH.items() if room(name) == of}
    assert [arrow for name, used in modules.items() for arrow in used_beyond(name, used, allowed)] == []
    used = set().union(*modules.values())
    assert allowed - used - {room(other) for other in used} == set(), "the table allows what nobody uses"


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("crypto.primitives.x", "crypto.plan"),
        ("crypto.encoding.x", "crypto.secagg.session"),
        ("crypto.plan", "crypto.backends.double_masking.silo"),
        ("silo_agent.host.x", "silo_agent.config"),
        ("silo_agent.model.x", "silo_agent.pruning.prune"),
        ("silo_agent.pruning.pruners.x", "silo_agent.releases.votes"),
        ("silo_agent.releases.x", "silo_agent.rounds.one_round"),
        ("silo_agent.network.x", "silo_agent.consent.policy"),
        ("silo_agent.rounds.x", "silo_agent.commands.approval"),
        ("silo_agent.rounds.x", "silo_agent.cli"),
        ("silo_agent.rounds.x", "aggregator.rounds.word_sum"),
        ("aggregator.rounds.x", "silo_agent.consent.ledger"),
        ("aggregator.rounds.x", "silo_agent.rounds.one_round"),
        ("aggregator.rounds.x", "silo_agent.network.transport"),
        ("aggregator.results.x", "aggregator.runs.run"),
        ("aggregator.runs.x", "silo_agent.identity.enrolment"),
        ("aggregator.serve", "silo_agent.commands.approval"),
        ("aggregator.cli", "silo_agent.cli"),
    ],
)
def test_an_import_that_the_table_does_not_allow_is_found(name: str, imported: str) -> None:
    assert list(used_beyond(name, {imported}, entries(USES, room(name)))) == [f"{name} -> {imported}"]


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("crypto.backends.x", "crypto.secagg.session"),
        ("silo_agent.pruning.pruners.x", "silo_agent.pruning.keep_mask"),
        ("aggregator.rounds.x", "silo_agent.opened_sums.committed_words"),
    ],
)
def test_an_import_that_the_table_allows_is_left_alone(name: str, imported: str) -> None:
    assert list(used_beyond(name, {imported}, entries(USES, room(name)))) == []


@pytest.mark.parametrize("of", USES)
def test_the_architecture_has_the_same_table(of: str) -> None:
    columns = [", ".join(USES[of].get(package, "").split()) for package in ("crypto", "silo_agent", "aggregator")]
    start = f"| `{of.replace('.', '/')}` | "
    lines = (Path(__file__).parents[2] / "docs/architecture.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith(start) and line.count("|") == 5]
    assert rows == [f"{start}{' | '.join(columns)} |"]


def test_the_core_uses_nobody_and_the_agent_not_the_aggregator() -> None:
    for of, packages in USES.items():
        order = ("crypto", "silo_agent", "aggregator")
        assert set(packages) <= set(order[: order.index(of.partition(".")[0]) + 1]), of


def test_the_aggregator_uses_of_the_agent_only_what_both_roles_need() -> None:
    for of, packages in USES.items():
        if of.startswith("aggregator."):
            for name in packages.get("silo_agent", "").split():
                is_shared = name in SHARED or name.startswith(("rounds.", "network."))
                assert is_shared or (name == "config" and of in REHEARSAL), f"{of} -> silo_agent.{name}"


def test_no_rooms_use_each_other_in_a_circle() -> None:
    graph = {of: {room(entry) for entry in entries(USES, of)} for of in USES}
    assert [group for group in circles(graph) if len(group) > 1] == []
