"""What the search and the exploration take a silo for is what the real one is: the same messages lead on, and the same
are refused.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adversary.exploration import OPENINGS, Exploration, Stage, State, Step, Terms
from adversary.federation import Part
from adversary.questions import any_question, any_question_about_people, any_set, members, names
from adversary.rules import BUDGET, DELTA, charge, present_rules, row, rules_with_a_budget, wanted
from attacks.stage import Stage as Theatre
from attacks.stage import agents, heard, told
from crypto.backends.double_masking.transcript import SURVIVORS
from crypto.encoding.wire import encode
from crypto.errors import SparsiloError
from crypto.names import Phase
from silo_agent.consent.ledger import check_survivors
from silo_agent.consent.policy import Approval, Policy, check_epsilon
from silo_agent.consent.privacy_ledger import PrivacyLedger
from silo_agent.consent.state_store import StateStore
from sparsilo.v1 import round_pb2

COLLUDER = 3


class Silos:
    """Agents of one round with sessions, ledger and store, as far as UPLOAD; silo-003 colludes where it is there."""

    def __init__(self, terms: Terms, colluders: int, folder: Path) -> None:
        size = terms.silos.bit_count()
        self.terms, self.honest = terms, members(terms.silos & ~colluders)
        self.stage = Theatre(
            silos=size,
            threshold=terms.threshold,
            least_survivors=terms.least_survivors,
            colluders=colluders.bit_count(),
        )
        agents(self.stage, folder, *(names(1 << silo)[0] for silo in self.honest)).go_on(Phase.UPLOAD)
        sessions: dict[str, Any] = dict(self.stage.silos)
        self.secrets = {name: session._known for name, session in sessions.items()}
        self.uploads: dict[str, Any] = {}
        self.signatures: dict[tuple[str, int], bytes] = {}
        self.revealed: dict[int, Any] = {}
        if colluders:
            name = names(colluders)[0]
            self.stage.upload(name, self.stage.lanes[name])
            self.uploads[name] = heard(self.stage.silos[name].message())

    def bring(self, silo: int, stage: Stage) -> bool:
        """Send a silo what should bring it to a stage; whether it goes along."""
        _, step, survivors, opening = stage
        [name] = names(1 << silo)
        session = self.stage.silos[name]
        try:
            if step is Step.UPLOADED:
                self.uploads[name] = heard(session.message())
            elif step is Step.SIGNED:
                session.receive(told(self.stage, survivors=self._survivors(survivors)))
                self.signatures[name, survivors] = heard(session.message()).signature
            elif step is Step.REVEALED:
                session.receive(told(self.stage, survivors_signatures=self._signatures(survivors)))
                self.revealed[silo] = heard(session.message())
            else:
                session.receive(told(self.stage, opening=self._opening(survivors, opening)))
                heard(session.message())
        except SparsiloError:
            return False
        return True

    def _survivors(self, survivors: int) -> round_pb2.Survivors:
        """What the aggregator says who survived: true roots of those that uploaded, and of nobody else."""
        uploads = [(name, self.uploads[name]) for name in names(survivors)]
        return round_pb2.Survivors(
            roots=[round_pb2.SignedRoot(silo=name, root=body.root, signature=body.signature) for name, body in uploads]
        )

    def _signatures(self, survivors: int) -> round_pb2.SurvivorsSignatures:
        """All signatures over these survivors that there are, and a colluder's."""
        message, signed = round_pb2.SurvivorsSignatures(), encode(self._survivors(survivors))
        for name in names(survivors):
            if (name, survivors) in self.signatures:
                message.signatures.add(silo=name, signature=self.signatures[name, survivors])
            elif int(name[-1]) not in self.honest:
                signature = self.stage.keys[name].sign(SURVIVORS + self.stage.context, signed)
                message.signatures.add(silo=name, signature=signature)
        return message

    def _opening(self, survivors: int, opening: int) -> round_pb2.Opening:
        """The true seeds, and a sum's root that is the true one or not."""
        message = round_pb2.Opening(sum_root=bytes([opening]) * 32)
        for name in names(survivors):
            message.self_seeds.add(silo=name, seed=self.secrets[name].self_seed)
        for dropped in self.stage.plan.silos:
            for name in names(survivors) if dropped not in names(survivors) else ():
                message.pair_seeds.add(dropped=dropped, survivor=name, seed=self.secrets[dropped].pair_seeds[name])
        return message


def tries(chance: random.Random, explored: Exploration, state: State, silo: int) -> Stage | None:
    """Something that could be said to the silo in its place, allowed or not; None where nothing is left to say."""
    parts = state[explored.honest.index(silo)]
    if not parts:
        return 0, Step.UPLOADED, 0, 0
    _, step, survivors, _ = parts[-1]
    if step is Step.UPLOADED:
        there = explored.colluders | sum(
            1 << other for other, known in zip(explored.honest, state, strict=True) if known
        )
        return 0, Step.SIGNED, any_set(chance, there, 1), 0
    if step is Step.SIGNED:
        return 0, Step.REVEALED, survivors, 0
    return (0, Step.OPENED, survivors, chance.choice(OPENINGS)) if step is Step.REVEALED else None


@pytest.mark.clause("4.9", "5.4.3", "5.5.1", "5.5.3", "5.6.2")
@pytest.mark.parametrize(
    ("terms", "colluders"),
    [(Terms(0b111, 2, 2), 0), (Terms(0b111, 2, 3), 0), (Terms(0b1111, 3, 3), 0), (Terms(0b1111, 3, 3), 0b1000)],
)
def test_real_silos_go_where_explored_ones_go(terms: Terms, colluders: int, tmp_path: Path) -> None:
    explored, refused = Exploration((terms,), colluders, 2), 0
    for seed in range(6):
        chance, silos = random.Random(seed), Silos(terms, colluders, tmp_path / str(seed))
        state, talking = ((),) * len(silos.honest), [*silos.honest]
        for _ in range(60):
            if not talking:
                break
            silo = chance.choice(talking)
            place, stage = silos.honest.index(silo), tries(chance, explored, state, silo)
            if stage is None or (stage[1] is Step.OPENED and stage not in explored.allowed(state, silo)):
                talking.remove(silo)  # an opening cannot be made up before shares are there
                continue
            if stage[1] is Step.REVEALED and stage not in explored.allowed(state, silo) and chance.random() < 0.7:
                continue  # mostly the aggregator waits until it has enough signatures
            is_allowed = stage in explored.allowed(state, silo)
            assert silos.bring(silo, stage) == is_allowed, (seed, state, stage)
            if is_allowed:
                state = (*state[:place], (stage,), *state[place + 1 :])
            else:
                refused += 1
                talking.remove(silo)  # it is ABORTED
        for silo, body in silos.revealed.items():
            [(_, _, survivors, _)] = state[silos.honest.index(silo)]
            assert [share.silo for share in body.self_seeds] == [*names(survivors)]
            assert [share.silo for share in body.bundle_keys] == [*names(terms.silos & ~survivors)]
    assert refused


@pytest.mark.clause("2.5.2", "2.5.9", "2.5.10", "2.5.11")
def test_the_ledger_in_memory_is_the_one_on_disk(tmp_path: Path) -> None:
    """A silo of the search and a real store are asked the same, in the same order."""
    outcomes = set()
    for seed in range(25):
        chance = random.Random(seed)
        rules, parts, store = present_rules(0, 2), dict[Any, Part](), StateStore(tmp_path / f"{seed}.sqlite")
        for number in range(6):
            question = any_question(chance, 5, 0, 2, True, number)
            if question is None or not question.silos & 1:
                continue
            begun = row(Part(question))
            may = passes(rules.may_take_part, question, [*parts.values()])
            assert (passes(store.begin, begun) and passes(store.send, begun)) == may
            outcomes.add(("takes part", may))
            if not may:
                continue
            parts[question] = Part(question)
            survivors = any_set(chance, question.silos, question.round.least_survivors)
            signs = passes(rules.may_sign, question, survivors, [*parts.values()])
            assert passes(check_survivors, begun, names(survivors), store.releases()) == signs
            outcomes.add(("signs", signs))
            if signs and chance.random() < 0.7:
                parts[question] = Part(question, survivors, True)
                store.confirm(begun, names(survivors))
    assert len(outcomes) == 4


@pytest.mark.clause("14.7.2", "14.7.4")
def test_the_privacy_ledger_in_memory_is_the_one_on_disk(tmp_path: Path) -> None:
    """A silo of the search and a real privacy ledger are asked the same, with noise and without, in the same order."""
    policy, now, outcomes = Policy(Approval.AUTO, None, epsilon=BUDGET, delta=DELTA), datetime.now(UTC), set()
    for seed in range(10):
        chance, ledger, parts = random.Random(seed), PrivacyLedger(tmp_path / f"{seed}"), list[Part]()
        rules = rules_with_a_budget(0, 2)
        for number in range(8):
            question = any_question_about_people(chance, 5, 0, 2, True, number)
            if question is None:
                continue
            may = passes(rules.may_spend, question, parts)
            check = partial(check_epsilon, policy, wanted=wanted(question))
            assert passes(ledger.charge, charge(question), check, now) == may
            outcomes.add((bool(question.clip), may))
            if may:
                parts.append(Part(question))
    assert outcomes == {(True, True), (True, False), (False, False)}


def passes(check: Callable[..., object], *arguments: object) -> bool:
    try:
        check(*arguments)
    except SparsiloError:
        return False
    return True
