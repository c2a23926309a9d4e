"""`aggregator serve` and agents that stay: runs one after another, decisions, a killed aggregator, an orderly stop."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from silo_agent.host.metrics import PHASES
from support.deployment import PATIENCE, Deployment, Program, until
from support.postgres import postgres_server

STEPS = [
    "votes round: begins, with N silos",
    "block N of N",
    "block N of N, about N:N minutes left",
    *(f"votes round: phase {phase}, waits for the others" for phase in ("plan", "keys", "shares")),
    "votes round: phase upload, N bytes of masked words leave",
    *(f"votes round: phase {phase}, waits for the others" for phase in PHASES[3:8]),
    "votes round: phase audit, recomputes N chunks",
    "votes round: phase audit, waits for the others",
    "votes round: done, over a, b, c",
]
"""What an agent's log says of a round, numbers aside."""


def logged(program: Program) -> list[dict[str, object]]:
    """The lines of a log in JSON."""
    return [json.loads(line) for line in program.said.splitlines()]


def zeros(result: Path) -> float:
    with safe_open(next(result.glob("model/*.safetensors")), "pt") as tensors:
        names = [name for name in tensors.keys() if "mlp" in name]  # noqa: SIM118 - it is no mapping
        return float(sum((tensors.get_tensor(name) == 0).float().mean() for name in names) / len(names))


def test_two_runs_one_after_another_and_an_orderly_stop(deployment: Deployment) -> None:
    server = deployment.serve(SPARSILO_LOG_FORMAT="json")
    deployment.join(log_format="json")
    first = deployment.submit(sparsity_ratio=0.5)
    second = deployment.submit(release="weights", pruner="sparsegpt", sparsity_ratio=0.25, evaluate=1, samples=3)
    for name, ratio in ((first, 0.5), (second, 0.25)):
        waited = deployment.wait(name)
        assert waited.code == 0, waited.err + server.said
        result = Path(waited.data["result"])
        assert zeros(result) == pytest.approx(ratio, abs=0.01)
        report = json.loads((result / "report.json").read_text())
        assert report["survivors"] == ["a", "b", "c"]
        evaluated = {"dense", "federated", "own", "self_calibrated", "alone", "candidates"}
        measured = evaluated if name == second else set()
        assert report.get("perplexity", {}).keys() == measured
        assert (result / "report.html").exists()
    assert sorted(path.name for path in (deployment.folder / "state/runs" / first).iterdir()) == [
        "plan",
        "plan.yaml",
        "result",
    ]  # no uploads
    listed = deployment.aggregator("rounds", "list", "--output", "json").data["runs"]
    assert [(run["run"], run["status"], run["survivors"]) for run in listed] == [
        (first, "done", 3),
        (second, "done", 3),
    ]
    for state in (deployment.folder / "state", *(deployment.folder / silo / "state" for silo in "abc")):
        written = {file: file.stat().st_mode & 0o777 for file in state.rglob("*") if file.is_file()}
        by_this_process = {"plan", "plan.yaml"}  # which is no command line of its own
        assert {file for file, mode in written.items() if mode != 0o600 and file.name not in by_this_process} == set()
        assert len(written) > 3
    for silo in "abc":  # its transcripts, and nothing that can be computed again
        runs = deployment.folder / silo / "state/runs"
        assert {run.name[:16] for run in runs.iterdir()} == {first, second}
        assert {file.suffix for file in runs.rglob("*") if file.is_file()} == {".transcript"}
    assert server.end() == 0
    assert "Traceback" not in server.said
    assert {line["run"] for line in logged(server) if "run" in line} == {first, second}
    lines = logged(deployment.agents["a"])
    assert [line["message"] for line in lines if line["message"].startswith(("connected", "plan "))] == [
        f"connected to localhost:{deployment.port}",
        *(f"plan {run}: approved" for run in (first, second)),
    ]
    assert [re.sub("[0-9]+", "N", line["message"]) for line in lines if line.get("run") == first] == STEPS
    agent = deployment.agents["a"]
    assert agent.end() == 128 + signal.SIGTERM
    assert "Traceback" not in agent.said


@pytest.mark.slow
def test_a_rejected_plan_is_declined_at_once_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = Deployment(tmp_path, ["a", "b", "c", "d"], capsys)
    try:
        deployment.serve()
        deployment.join()
        deployment.policy("d", approval="manual")
        name = deployment.submit(preparation_seconds=3600, threshold=3)
        pending = until(lambda: deployment.silo("d", "pending", "--output", "json").data["pending"])
        digest = pending[0]["plan"]
        assert digest.startswith(name)
        assert deployment.silo("d", "reject", digest[:16], "--reason", "not this month").code == 0
        waited = deployment.wait(name)  # far sooner than an hour
        assert waited.code == 0, waited.err
        report = json.loads((Path(waited.data["result"]) / "report.json").read_text())
        assert (report["survivors"], report["dropped"]) == (["a", "b", "c"], {"d": "plan"})
        assert "not this month" not in next(deployment.folder.glob("aggregator-*.log")).read_text()
        again = deployment.silo("d", "approve", digest[:16])
        assert again.code == 4
        assert "rejected" in again.err
    finally:
        deployment.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.parts)])
def journal(request: pytest.FixtureRequest) -> Iterator[str]:
    """As aggregator.yaml names it."""
    if request.param == "sqlite":
        yield ""
    else:
        with postgres_server() as server:
            yield server.url


@pytest.mark.slow
def test_a_killed_aggregator_goes_on_in_the_same_run(deployment: Deployment, journal: str) -> None:
    """Killed twice: after a round of the run is done, and again while the next one waits for a silo."""
    server = deployment.serve(journal)
    deployment.join(reconnect_seconds=600)
    deployment.policy("c", approval="manual")
    name = deployment.submit(schedule="iterative", sparsity_ratio=0.5)  # a round a block
    until(lambda: deployment.silo("c", "pending", "--output", "json").data["pending"])
    server.end(signal.SIGKILL)
    server = deployment.serve()
    assert deployment.silo("c", "approve", name).code == 0
    until(lambda: deployment.aggregator("rounds", "show", name, "--output", "json").data["done"] >= 1)
    server.end(signal.SIGKILL)
    server = deployment.serve()
    waited = deployment.wait(name)
    assert waited.code == 0, waited.err + server.said
    assert zeros(Path(waited.data["result"])) == pytest.approx(0.5, abs=0.01)
    report = json.loads((Path(waited.data["result"]) / "report.json").read_text())
    assert report["survivors"] == ["a", "b", "c"]


def test_waiting_for_a_run_can_end_three_ways(deployment: Deployment) -> None:
    deployment.serve()
    for silo in deployment.silos:
        deployment.enroll(silo)
    deployment.pin()
    name = deployment.submit(preparation_seconds=1, phase_seconds=1)  # and no agent runs
    late = deployment.aggregator("rounds", "wait", name, "--timeout", 1, "--output", "json")
    failed = deployment.wait(name)
    assert (failed.code, json.loads(failed.out)["error"]["code"]) == (1, "round_aborted")
    assert late.code in (1, 3)  # where it failed within the second
    assert deployment.aggregator("rounds", "wait", "no-such").code == 4
    shown = deployment.aggregator("rounds", "show", name, "--output", "json").data
    assert (shown["status"], shown["result"]) == ("failed", None)
    assert "plan" in shown["said"]


def test_a_plan_is_not_submitted_before_all_have_pinned_the_roster(deployment: Deployment) -> None:
    deployment.serve()
    for silo in deployment.silos:
        deployment.enroll(silo)
    shown = deployment.silo("a", "roster", "show", "--output", "json").data
    assert deployment.silo("a", "roster", "pin", "--fingerprint", shown["fingerprint"]).code == 0
    plan = deployment.folder / "plan.yaml"
    plan.write_text("release: votes\nsamples: 4\nsequence_length: 32\n")
    refused = deployment.aggregator("plan", "submit", plan)
    assert refused.code == 2
    assert "not signed by b, c" in refused.err
    checked = deployment.aggregator("plan", "check", plan, "--output", "json")
    assert (checked.code, checked.data["auditors_a_chunk"]) == (0, 2)
    assert checked.data["bytes_down_a_silo_in_audit"] == checked.data["bytes_up_a_silo"] * 2 * 4 // 3
    verified = deployment.silo("a", "roster", "verify")
    assert (verified.code, "not signed by b, c" in verified.err) == (2, True)


def test_what_noise_would_leave_is_said_before_anybody_runs(deployment: Deployment) -> None:
    deployment.serve()
    for silo in deployment.silos:
        deployment.enroll(silo)
    plan = deployment.folder / "plan.yaml"
    plan.write_text("release: energies\npruner: wanda\nsamples: 400\nsequence_length: 32\n")
    refused = deployment.aggregator("plan", "budget", plan)
    assert (refused.code, "epsilon: is missing" in refused.err) == (4, True)
    plan.write_text(plan.read_text() + "epsilon: 2\ndelta: 1e-5\n")
    checked = deployment.aggregator("plan", "check", plan, "--output", "json").data
    assert (checked["epsilon"], checked["delta"], checked["shares_of_noise_counted_on"]) == (2.0, 1e-5, 2)
    proposed = deployment.aggregator("plan", "budget", plan, "--output", "json").data
    assert [row["epsilon"] for row in proposed["rows"]] == [0.5, 1, 2, 4, 8, 16]
    assert checked["noise_of_a_usual_feature"] == f"{proposed['rows'][2]['relative']:.1%}"
    few = deployment.aggregator("plan", "budget", plan, "--records", 1)
    assert (few.code, few.out.count("no better than sharing nothing") > 3) == (0, True)
    plan.write_text("release: votes\nvote_noise: 2\nsamples: 4\nsequence_length: 32\n")
    checked = deployment.aggregator("plan", "check", plan, "--output", "json").data
    assert checked["epsilon"] > 100, "of all votes of a silo, which one person's text may change"
    assert "for one vote of a silo" in checked["kept_of_votes"]
    assert checked["noise_of_a_keep_count"] == "3.46 votes", "of three silos"


@pytest.mark.clause("7.8", "2.3.8")
def test_nothing_is_sent_for_a_wrong_fingerprint_nor_computed_before_approval(deployment: Deployment) -> None:
    from silo_agent.cli import cli
    from support.commands import run

    deployment.serve()
    invitation = deployment.folder / "x.yaml"
    assert deployment.aggregator("invite", "--silo", "x", "--out", invitation).code == 0
    arguments = ["--invitation", invitation, "--fingerprint", "0" * 64, "--out", deployment.folder / "x"]
    refused = run(cli, ["enroll", *arguments], deployment._capsys)
    assert (refused.code, "has the fingerprint" in refused.err) == (2, True)
    assert deployment.aggregator("silos", "list", "--output", "json").data["silos"] == []
    assert not (deployment.folder / "x").exists()

    deployment.join(approval="manual")
    deployment.submit(preparation_seconds=3600)
    for silo in deployment.silos:
        until(lambda silo=silo: deployment.silo(silo, "pending", "--output", "json").data["pending"])
        state = deployment.folder / silo / "state"
        kept = {file.name for file in state.iterdir()} - {"agent.sqlite-journal"}  # SQLite's, while it writes
        assert kept == {"agent.sqlite", "audit.jsonl", "lock"}
        wrong = deployment.silo(silo, "roster", "pin", "--fingerprint", "0" * 64)
        assert wrong.code == 2
    pinned = {(deployment.folder / silo / "roster.yaml").read_bytes() for silo in deployment.silos}
    assert len(pinned) == 1


def test_a_port_has_one_owner(deployment: Deployment, tmp_path: Path) -> None:
    """Two would share it unseen, and each silo's calls would reach now one, now the other."""
    first = deployment.serve()
    state = f"state={tmp_path / 'other'}"
    second = Program(tmp_path / "second.log", "aggregator.cli", "serve", "--config", deployment.config, "--set", state)
    assert second.process.wait(PATIENCE) == 4
    assert f"cannot listen on 127.0.0.1:{deployment.port}" in second.said.splitlines()[-1]
    assert "Traceback" not in second.said
    second.end()
    assert first.end() == 0
