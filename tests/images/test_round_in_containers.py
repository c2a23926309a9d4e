"""A real round between containers that reach each other only as a silo's egress rules allow."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from images.containers import USER, answers, until_answers
from images.federation import (
    AGENT,
    AGGREGATOR,
    JSON,
    MANUAL,
    PORT,
    PROXIED,
    PROXY,
    PROXY_PORT,
    PUBLIC_NAME,
    SILOS,
    Federation,
    done,
    federation,
)
from images.network import HOST, METRICS
from monitoring.prometheus_server import DASHBOARDS, prometheus, until

pytestmark = pytest.mark.minutes

DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
SIGTERM_STATUS = {AGGREGATOR: 0, **dict.fromkeys(SILOS, 128 + 15)}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Enrolled, pinned, ready. Tests leave it so."""
    with federation(tmp_path_factory.mktemp("federation")) as made:
        try:
            made.start()
            yield made
        finally:
            print(made.logs(), made.proxy.log(), sep="\n")  # noqa: T201 - shown where something failed


@pytest.mark.parametrize("party", [AGGREGATOR, *SILOS])
def test_runs_as_nobody_with_nothing_to_write_and_no_capability(party: str, running: Federation) -> None:
    container = running.containers[party]
    status = container.status()
    assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
    for held in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[held], 16) == 0, held
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for place in ("/", "/etc/sparsilo", "/models", "/opt/sparsilo", "/usr", "/var", "/run"):
        tried = container.execute("python3", "-c", "import sys; open(sys.argv[1], 'w')", f"{place}/x")
        assert tried.code != 0, place
    assert container.execute("python3", "-c", "open('/tmp/x', 'w'); open('/var/lib/sparsilo/x', 'w')").code == 0


def test_nothing_but_the_aggregators_port_is_in_reach_of_a_silo(running: Federation) -> None:
    """From the very containers, after a look from this machine that somebody listens there."""
    net = running.network

    def dials(party: str, host: str, port: int) -> bool:
        return running.containers[party].execute("python3", "-c", DIAL, host, port).code == 0

    assert all(answers(running.health(party)) == 200 for party in (AGGREGATOR, *SILOS))
    before = net.dropped(PROXIED, AGGREGATOR)
    for silo in SILOS:
        direct = silo != PROXIED
        assert dials(silo, PUBLIC_NAME, PORT) is direct
        assert dials(silo, net.address(PROXY), PROXY_PORT) is not direct
        for party in {AGGREGATOR, PROXY, HOST, *SILOS} - {silo}:
            assert not dials(silo, net.address(party), METRICS), (silo, party)
        assert not dials(AGGREGATOR, net.address(silo), METRICS), silo  # silos dial out; nobody dials in
    assert net.dropped(PROXIED, AGGREGATOR) > before  # so the tests below would see a packet that went another way


def test_a_round_and_its_model(running: Federation, tmp_path: Path) -> None:
    """While Prometheus scrapes it. One silo's plan is approved by hand; one silo comes through the proxy."""
    before = running.network.dropped(PROXIED, AGGREGATOR)
    with prometheus(tmp_path / "prometheus", running.metrics) as server:
        run = running.submit()
        manual = running.silos[MANUAL]

        def pending() -> list[str]:
            plans = done(manual.execute("silo-agent", "pending", *AGENT, *JSON))["pending"]
            return [plan["plan"] for plan in plans]

        for _ in range(2):  # the pruning, and the evaluation of what came of it
            [plan] = until(pending, 90)
            assert done(manual.execute("silo-agent", "approve", plan, *AGENT, *JSON))["decision"] == "approved"
            assert plan not in pending()
        found = running.wait(run)
        assert found["status"] == "done"
        assert [server.without_data(dashboard) for dashboard in DASHBOARDS] == [[], []]
    result = running.state(AGGREGATOR) / "runs" / found["run"] / "result" / "model"
    dense, sparse = (load_file(folder / "model.safetensors") for folder in (running.folder / "model", result))
    assert sparse.keys() == dense.keys()
    pruned = [name for name in dense if not torch.equal(dense[name], sparse[name])]
    assert len(pruned) == 14  # seven matrices in each of two blocks
    for name in pruned:
        kept = sparse[name] != 0
        assert kept.float().mean() == 0.5, name
        assert torch.equal(sparse[name][kept], dense[name][kept]), name
    logits = AutoModelForCausalLM.from_pretrained(result)(torch.tensor([[0, 5, 7]])).logits
    assert logits.shape[:2] == (1, 3) and logits.isfinite().all()
    assert f"CONNECT {PUBLIC_NAME}:{PORT}" in running.proxy.log()
    assert running.network.dropped(PROXIED, AGGREGATOR) == before
    assert all(done(each.execute("silo-agent", "audit", "verify", *AGENT, *JSON)) for each in running.silos.values())


def test_without_its_proxy_a_silo_does_not_go_another_way(running: Federation) -> None:
    """Neither the agent that lost it nor one that starts without it; and it comes back with the proxy."""
    container, net = running.silos[PROXIED], running.network
    before = net.dropped(PROXIED, AGGREGATOR)
    running.proxy.stop()
    try:
        shown = container.execute("silo-agent", "roster", "show", *AGENT)
        assert shown.code == 2, shown
        assert container.stop() == SIGTERM_STATUS[PROXIED]
        started = container.once("run", *AGENT, "--set", "reconnect_seconds=5", "--set", "stay=false", limit=120)
        assert started.code == 2, started
    finally:
        running.proxy.start()
        container.remove()
        running.start_agent(PROXIED)
    until_answers(running.health(PROXIED), 200)
    assert running.shown_roster(PROXIED)["pinned"]
    assert net.dropped(PROXIED, AGGREGATOR) == before


@pytest.mark.parametrize("party", [PROXIED, MANUAL, AGGREGATOR])
def test_sigterm_ends_it_and_started_again_it_goes_on(party: str, running: Federation) -> None:
    container = running.containers[party]
    assert container.stop() == SIGTERM_STATUS[party]
    container.remove()
    if party == AGGREGATOR:
        running.start_aggregator()
    else:
        running.start_agent(party)
        until_answers(running.health(party), 200)
    assert all(running.shown_roster(silo)["pinned"] for silo in SILOS)
