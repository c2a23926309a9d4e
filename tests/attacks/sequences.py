"""What attacks by several rounds share: rounds that silos answer alike, and silos that each keep to a ledger."""

from collections.abc import Sequence
from pathlib import Path

from attacks.stage import Agent, Opened, Stage
from crypto.errors import ReleaseRefused, TooFewSurvivors
from crypto.names import Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from support.plans import plan_message


def asked(ratio: str, silos: int = 5, threshold: int = 3, colluders: int = 0) -> Round:
    """A votes round in which every silo has a sparsity ratio of its own, so that the plan's changes no answer."""
    message = plan_message(silos, threshold=threshold, colluders=colluders)
    message.pruning.sparsity_ratio = ratio
    for member in message.roster:
        member.sparsity_ratio = "0.5"
    return Round(checked_plan(message), 0)


def over(round_: Round, survivors: Sequence[str]) -> Stage:
    """A stage whose aggregator calls all others dropped once their words are there."""
    return Stage(round_=round_, lost={silo: Phase.UPLOAD for silo in round_.silos if silo not in survivors})


def opened_over(stage: Stage, folder: Path) -> tuple[str, ...]:
    """Which silos the sum is over that an aggregator gets; nobody where it gets none.

    The silos keep to their ledgers, which are in the folder; one that its ledger forbids to go on falls silent.
    """
    silent: dict[str, Phase] = {}
    for silo in stage.round.silos:
        try:
            Agent(stage, silo, folder)
        except ReleaseRefused:
            silent[silo] = Phase.PLAN
    stage.lost = {**stage.lost, **silent}
    try:
        while stage.aggregator.phase is not Phase.OPENING:
            for silo, answer in stage.answers().items():
                try:
                    stage.silos[silo].receive(answer)
                except ReleaseRefused:
                    stage.lost = {**stage.lost, silo: stage.aggregator.phase}
    except TooFewSurvivors:
        return ()
    return stage.aggregator.survivors


def combined(*terms: tuple[int, Stage]) -> Opened:
    """The sums that are opened where no silo has a ledger, each times a whole number, added up."""
    total: Opened = {}
    for times, stage in terms:
        stage.finish()
        for name, values in stage.open().items():
            before = total.get(name, [0] * len(values))
            total[name] = [have + times * lane for have, lane in zip(before, values.tolist(), strict=True)]
    return total
