"""What a silo refuses in a plan that is sound in itself but not this silo's (docs/protocol.md, 2.3), and the
policy.yaml that says so.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from crypto.errors import ConfigError, IdentityError, PlanError, ReleaseRefused, SparsiloError
from crypto.names import Backend, ReleaseKind, Suite
from crypto.plan import Plan, model_digest
from crypto.plan_rules import checked_plan
from crypto.primitives.signing import SigningKey
from crypto.privacy.accountant import epsilon
from crypto.privacy.events import ExactEvent, GaussianEvent
from crypto.releases.votes import VotesSpec
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.config import AgentConfig
from silo_agent.consent.policy import (
    DAYS,
    Approval,
    Hours,
    Policy,
    check_accusations,
    check_budget,
    check_epsilon,
    check_policy,
    trusted_digest,
)
from silo_agent.consent.privacy_ledger import Spent
from silo_agent.rounds.offer_checks import check_plan
from sparsilo.v1 import plan_pb2
from support.models import tiny_llama
from support.plans import llama_tensors, model_files, plan_message, signing_keys
from support.small_plans import SMALL_PLANS

ROSTER = {silo: key.public_bytes for silo, key in signing_keys(4).items()}
X = Path()
CONFIG = AgentConfig("silo-002", "localhost:1", X, X, X, X, X, X, X, X, X)
POLICY = Policy(Approval.MANUAL, None, **SMALL_PLANS)
LAYER = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "dense")


@pytest.fixture(scope="module")
def weights(folder: Path) -> DenseWeights:
    return DenseWeights.open(folder)


@pytest.fixture
def message(weights: DenseWeights) -> plan_pb2.Plan:
    """The plan that this silo accepts."""
    message = plan_message(4)
    del message.model[:]
    message.model.extend(llama_tensors(weights))
    message.files.extend(model_files(weights))
    return message


def check(message: plan_pb2.Plan, weights: DenseWeights, config: AgentConfig = CONFIG, policy: Policy = POLICY) -> None:
    check_plan(checked_plan(message), config, ROSTER, weights, weights.digest())
    check_policy(checked_plan(message), policy, config.silo)


def tensor(message: plan_pb2.Plan, name: str) -> plan_pb2.Tensor:
    return next(tensor for tensor in message.model if tensor.name == name)


def test_an_honest_plan_passes(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    check(message, weights)
    message.backend = Backend.INSECURE_PLAINTEXT
    check(message, weights, replace(CONFIG, backend=Backend.INSECURE_PLAINTEXT))


def one_silo_less(message: plan_pb2.Plan) -> None:
    del message.roster[3]
    message.threshold, message.least_survivors = 3, 3


def one_silo_more(message: plan_pb2.Plan) -> None:
    message.roster.add(silo="silo-004", signing_key=SigningKey.from_bytes(bytes(32), Suite.DEFAULT).public_bytes)


def other_key(message: plan_pb2.Plan) -> None:
    message.roster[1].signing_key = SigningKey.from_bytes(bytes(32), Suite.DEFAULT).public_bytes


def other_name(message: plan_pb2.Plan) -> None:
    message.roster[0].silo = "silo-000-b"


def other_backend(message: plan_pb2.Plan) -> None:
    message.backend = Backend.INSECURE_PLAINTEXT


def one_tensor_less(message: plan_pb2.Plan) -> None:
    message.model.remove(tensor(message, NORM))


def one_tensor_more(message: plan_pb2.Plan) -> None:
    message.model.add(name="z.weight", digest=bytes(32), shape=[1])


def not_pruned(message: plan_pb2.Plan) -> None:
    tensor(message, LAYER).prunable, tensor(message, LAYER).block = False, 0


def in_another_block(message: plan_pb2.Plan) -> None:
    tensor(message, LAYER).block = 0


def turned(message: plan_pb2.Plan) -> None:
    tensor(message, LAYER).input_first = True


def pruned_too(message: plan_pb2.Plan) -> None:
    tensor(message, "model.embed_tokens.weight").prunable = True


def transposed(message: plan_pb2.Plan) -> None:
    tensor(message, LAYER).shape[:] = reversed(tensor(message, LAYER).shape)


def norm_of_another_shape(message: plan_pb2.Plan) -> None:
    tensor(message, NORM).shape[:] = [33]


@pytest.mark.clause("2.3.1")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (other_backend, PlanError, ["backend insecure_plaintext", "accepts double_masking"]),
        (one_silo_less, IdentityError, ["roster", "at silo-003"]),
        (one_silo_more, IdentityError, ["roster", "at silo-004"]),
        (other_key, IdentityError, ["roster", "at silo-001"]),
        (other_name, IdentityError, ["roster", "at silo-000, silo-000-b"]),
        (one_tensor_less, PlanError, ["model", f"{NORM} differs"]),
        (one_tensor_more, PlanError, ["model", "z.weight differs"]),
        (not_pruned, PlanError, ["prunes other tensors"]),
        (pruned_too, PlanError, ["prunes other tensors"]),
        (in_another_block, PlanError, ["prunes other tensors"]),
        (turned, PlanError, ["prunes other tensors"]),
        (transposed, PlanError, ["shape", LAYER]),
        (norm_of_another_shape, PlanError, ["shape", NORM]),
    ],
)
def test_refused(
    change: Callable[[plan_pb2.Plan], None],
    error: type[SparsiloError],
    words: list[str],
    message: plan_pb2.Plan,
    weights: DenseWeights,
) -> None:
    change(message)
    with pytest.raises(error) as refused:
        check(message, weights)
    assert type(refused.value) is error
    assert all(word in refused.value.message for word in words), refused.value.message
    assert "\n" not in str(refused.value)


def test_a_silo_that_accepts_plaintext_refuses_another_backend(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    with pytest.raises(PlanError, match="accepts insecure_plaintext"):
        check(message, weights, replace(CONFIG, backend=Backend.INSECURE_PLAINTEXT))


@pytest.mark.clause("2.3.3")
@pytest.mark.parametrize(("planned", "accepted"), [(Suite.DEFAULT, Suite.FIPS), (Suite.FIPS, Suite.DEFAULT)])
def test_another_suite(planned: Suite, accepted: Suite, message: plan_pb2.Plan, weights: DenseWeights) -> None:
    message.suite = planned
    for member, key in zip(message.roster, signing_keys(4, planned).values(), strict=True):
        member.signing_key = key.public_bytes
    with pytest.raises(PlanError, match=f"the suite {planned} and this silo accepts {accepted}"):
        check(message, weights, replace(CONFIG, suite=accepted))


@pytest.mark.clause("2.3.4")
@pytest.mark.parametrize("honest", [2, 3, 4])
@pytest.mark.parametrize("colluders", [0, 1, 2])
def test_as_many_colluders_and_honest_survivors_as_this_silo_asks_for(
    colluders: int, honest: int, message: plan_pb2.Plan, weights: DenseWeights
) -> None:
    """The plan withstands one colluder of four, all of whom must sign: three of them are honest."""
    message.colluders, message.threshold, message.least_survivors = 1, 4, 4
    policy = replace(POLICY, colluders=colluders, least_honest_survivors=honest)
    if colluders > 1:
        with pytest.raises(PlanError, match="colluders: 1 where this silo asks for 2"):
            check(message, weights, policy=policy)
    elif honest > 3:
        with pytest.raises(PlanError, match="honest silos of a threshold: 3 where this silo asks for 4"):
            check(message, weights, policy=policy)
    else:
        check(message, weights, policy=policy)


def test_two_honest_survivors_are_too_few_for_a_silo_that_says_nothing_of_them(
    message: plan_pb2.Plan, weights: DenseWeights
) -> None:
    message.colluders, message.threshold, message.least_survivors, message.two_honest_survivors = 2, 4, 4, True
    with pytest.raises(PlanError, match="honest silos of a threshold: 2 where this silo asks for 3"):
        check(message, weights)
    check(message, weights, policy=replace(POLICY, least_honest_survivors=2))


def test_a_silo_outside_its_own_roster(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    with pytest.raises(IdentityError, match="silo-009 is not in the roster"):
        check(message, weights, replace(CONFIG, silo="silo-009"))


@pytest.mark.parametrize("altered", [LAYER, NORM, "model.embed_tokens.weight"])
def test_one_bit_of_one_tensor(
    altered: str, message: plan_pb2.Plan, folder: Path, weights: DenseWeights, tmp_path: Path
) -> None:
    """Whether the silo holds the altered model or is offered it."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors[altered].view(torch.int32).flatten()[-1] ^= 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = DenseWeights.open(tmp_path)
    with pytest.raises(PlanError, match=f"{altered} differs"):
        check(message, theirs)
    tensor(message, altered).digest = theirs.digest()[altered]
    with pytest.raises(PlanError, match=f"{altered} differs"):
        check(message, weights)


# Layer sampling and ratios of its own.


def sampled(message: plan_pb2.Plan) -> plan_pb2.Plan:
    """Two blocks, of which silo-000 prunes one."""
    message.pruning.cohort_floor = 3
    for member, capacity in zip(message.roster, (1, 2, 2, 2), strict=True):
        member.capacity = capacity
    message.rounds[0].sampling.SetInParent()
    for block in range(2):
        message.rounds.add(block=block).votes.SetInParent()
    return message


@pytest.mark.clause("2.3.6")
@pytest.mark.parametrize("capacity", [0, 1, 2, 3])
def test_as_many_blocks_as_this_silo_declares(capacity: int, message: plan_pb2.Plan, weights: DenseWeights) -> None:
    config = replace(CONFIG, capacity=capacity)
    check(message, weights, config)  # without layer sampling
    sampled(message)
    if capacity in (0, 2):
        check(message, weights, config)
    else:
        with pytest.raises(PlanError, match=f"a capacity of 2 for this silo, whose own is {capacity}"):
            check(message, weights, config)
    check(message, weights, replace(config, silo="silo-000", capacity=1))


@pytest.mark.clause("2.3.6")
@pytest.mark.parametrize("ratio", ["", "0.3", "0.5", "0.31"])
def test_the_sparsity_ratio_of_this_silo(ratio: str, message: plan_pb2.Plan, weights: DenseWeights) -> None:
    config = replace(CONFIG, sparsity_ratio=ratio)
    check(message, weights, config)  # the plan has none for this silo
    message.roster[2].sparsity_ratio = "0.3"
    if ratio in ("", "0.3"):
        check(message, weights, config)
    else:
        with pytest.raises(PlanError, match=f"a sparsity_ratio of 0.3 for this silo, whose own is {ratio}"):
            check(message, weights, config)
    check(message, weights, replace(config, silo="silo-001"))


@pytest.mark.clause("2.3.4")
@pytest.mark.parametrize(("two", "asked"), [(False, 3), (False, 4), (True, 2), (True, 3)])
def test_a_cohort_may_be_as_small_as_its_honest_survivors(
    two: bool, asked: int, message: plan_pb2.Plan, weights: DenseWeights
) -> None:
    """However many of the whole roster must survive."""
    message.threshold, message.least_survivors, message.two_honest_survivors = 4, 4, two
    policy, honest = replace(POLICY, least_honest_survivors=asked, least_survivors=2), 2 if two else 3
    check(message, weights, policy=policy)
    sampled(message)
    if asked <= honest:
        check(message, weights, policy=policy)
    else:
        with pytest.raises(PlanError, match=f"honest silos of a threshold: {honest} where this silo asks for {asked}"):
            check(message, weights, policy=policy)


# What the policy covers.


@pytest.mark.clause("2.3.7")
def test_only_a_trusted_model(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    trusted = trusted_digest(weights).hex()
    check(message, weights, policy=replace(POLICY, models=frozenset({"0" * 64, trusted})))
    with pytest.raises(PlanError, match=f"the plan's model {trusted} is not one that this silo trusts"):
        check(message, weights, policy=replace(POLICY, models=frozenset({"0" * 64})))


def test_the_digest_of_a_model_by_hand(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    """Section 2 of docs/formats.md; from a plan and from a folder it is the same."""
    state, parts = sha256(b"sparsilo/1 model"), []
    for entries in (message.model, message.files):  # ascending already
        listed = b"".join(sha256(entry.name.encode()).digest() + entry.digest for entry in entries)
        state.update(sha256(listed).digest())
        parts.append({entry.name: entry.digest for entry in reversed(entries)})
    assert trusted_digest(weights) == checked_plan(message).model_digest == state.digest()
    assert model_digest(*parts) == state.digest()
    assert model_digest(*reversed(parts)) != state.digest()
    for part in parts:
        for name, digest in part.items():
            others = {other: part[other] for other in part if other != name}
            changes = (others, {**others, f"{name}x": digest}, {**others, name: digest[::-1]})
            for change in changes:
                assert model_digest(*(change if other is part else other for other in parts)) != state.digest()


def rounds_of_every_kind(message: plan_pb2.Plan) -> list[plan_pb2.Plan]:
    """Plans that have them all, each kind in one of them."""
    message.rounds.add(evaluation=plan_pb2.Evaluation(sequences=1, candidates=[plan_pb2.Candidate(dense=True)]))
    other = sampled(plan_pb2.Plan.FromString(message.SerializeToString()))
    other.pruning.pruner, other.pruning.comparison_group, other.pruning.allocation = "sparsegpt", "layer", "owl"
    del other.rounds[:]
    other.rounds.add().sampling.SetInParent()
    other.rounds.add().outliers.SetInParent()
    for block in range(2):
        other.rounds.add(block=block).scales.SetInParent()
        other.rounds.add(block=block).weights.SetInParent()
    pooled = []
    for kind in (ReleaseKind.ENERGIES, ReleaseKind.GRAM):
        plan = plan_pb2.Plan.FromString(message.SerializeToString())
        plan.pruning.pruner, plan.pruning.comparison_group = "sparsegpt", "layer"
        del plan.rounds[:]
        getattr(plan.rounds.add(), kind).SetInParent()
        for entry in plan.model:
            if entry.prunable:
                entry.scale_exponents = bytes(1 if kind is ReleaseKind.ENERGIES else entry.shape[1])
        pooled.append(plan)
    aiming = plan_pb2.Plan.FromString(pooled[-1].SerializeToString())
    aiming.pruning.schedule = "iterative"
    del aiming.rounds[:]
    for block in range(2):
        aiming.rounds.add(block=block).gram.SetInParent()
        aiming.rounds.add(block=block).dense_target.SetInParent()
        *_, last = (entry for entry in aiming.model if entry.prunable and entry.block == block)
        last.output_exponents = bytes(last.shape[0])
    return [message, other, *pooled, aiming]


@pytest.mark.clause("2.3.7")
@pytest.mark.parametrize("kind", ReleaseKind)
def test_every_rounds_release_kind(kind: ReleaseKind, message: plan_pb2.Plan, weights: DenseWeights) -> None:
    every = replace(POLICY, release_kinds=frozenset(ReleaseKind))
    policy, refused = replace(POLICY, release_kinds=frozenset(ReleaseKind) - {kind}), 0
    for offered in rounds_of_every_kind(message):
        check(offered, weights, policy=every)
        if kind in {each.WhichOneof("release") for each in offered.rounds}:
            refused += 1
            with pytest.raises(PlanError, match=f"a round of {kind}, which this silo does not release"):
                check(offered, weights, policy=policy)
        else:
            check(offered, weights, policy=policy)
    assert refused == (2 if kind is ReleaseKind.GRAM else 1)  # dense_target comes after it


@pytest.mark.clause("2.3.7")
@pytest.mark.parametrize("colluders", [0, 1])
def test_with_layer_sampling_a_cohort_counts_and_its_survivors(
    colluders: int, message: plan_pb2.Plan, weights: DenseWeights
) -> None:
    """Of 4 silos at least floor, and of those at least the larger of a threshold and colluders + 3 (2.6.3)."""
    message.least_survivors, message.threshold, message.colluders = 4, 4, colluders
    sampled(message)
    message.pruning.cohort_floor = 3 + colluders
    message.roster[0].capacity = 2
    floor = survivors = 3 + colluders
    check(message, weights, policy=replace(POLICY, least_cohort=floor, least_survivors=survivors))
    with pytest.raises(PlanError, match=f"silos of a sum: {floor} where this silo asks for {floor + 1}"):
        check(message, weights, policy=replace(POLICY, least_cohort=floor + 1))
    with pytest.raises(PlanError, match=f"survivors of a sum: {survivors} where this silo asks for {survivors + 1}"):
        check(message, weights, policy=replace(POLICY, least_survivors=survivors + 1))


@pytest.mark.clause("14.7.3")
def test_a_plan_without_noise_is_beyond_every_privacy_budget(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    with pytest.raises(PlanError, match="adds no noise, and this silo's privacy budget is epsilon 8") as refused:
        check(message, weights, policy=replace(POLICY, epsilon=8.0, delta=1e-6))
    assert "--epsilon; without noise are its rounds of votes" in refused.value.hint


def noisy(monkeypatch: pytest.MonkeyPatch, multiplier: float) -> float:
    """Let rounds of votes have noise of that multiplier; what two of them come to at a delta of 0.001."""
    monkeypatch.setattr(VotesSpec, "events", lambda *_: (GaussianEvent(multiplier),))
    return epsilon([GaussianEvent(multiplier, 2)], 0.001)


@pytest.mark.clause("14.7.3")
def test_a_plan_may_not_spend_more_than_the_privacy_budget_by_itself(
    message: plan_pb2.Plan, weights: DenseWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rounds of votes together; what a coin tells counts nothing."""
    both = noisy(monkeypatch, 4.0)
    sampled(message)
    check(message, weights, policy=replace(POLICY, epsilon=both, delta=0.001))
    with pytest.raises(PlanError, match=rf"spends epsilon {both:.6g}, .* is epsilon 0\.5 at delta 0\.001") as refused:
        check(message, weights, policy=replace(POLICY, epsilon=0.5, delta=0.001))
    assert "epsilon in the policy" in refused.value.hint


ONE = Spent(b"1" * 32, b"d" * 32, "2026", "energies", (GaussianEvent(4.0),))
EXACT = replace(ONE, round=b"2" * 32, events=(ExactEvent(),))
WANTED = (GaussianEvent(4.0),)


@pytest.mark.clause("14.7.4")
def test_what_is_spent_adds_up_over_the_texts_of_an_epoch_and_not_over_epochs() -> None:
    two, three = (epsilon([GaussianEvent(4.0, releases)], 0.001) for releases in (2, 3))
    policy = replace(POLICY, epsilon=two, delta=0.001, epoch="2026")
    other_text, other_epoch = replace(ONE, data=b"e" * 32), replace(ONE, epoch="2027")
    check_epsilon(policy, [], WANTED * 2)
    check_epsilon(policy, [ONE], WANTED)
    check_epsilon(policy, [ONE, other_epoch, replace(EXACT, epoch="")], WANTED)
    with pytest.raises(ReleaseRefused) as refused:
        check_epsilon(policy, [ONE, other_text, other_epoch], WANTED)
    assert refused.value.message == (
        f"epsilon {two:.6g} is spent; with the rounds to come it would be {three:.6g}, and this silo's privacy budget "
        f"is epsilon {two:g} at delta 0.001"
    )
    assert "other people" in refused.value.hint
    check_epsilon(replace(policy, epsilon=None), [ONE, other_text, EXACT], (*WANTED, ExactEvent()))


@pytest.mark.clause("14.7.4")
def test_after_a_release_without_noise_no_epsilon_is_left() -> None:
    policy = replace(POLICY, epsilon=1e6, delta=0.001, epoch="2026")
    check_epsilon(policy, [ONE], WANTED)
    with pytest.raises(ReleaseRefused, match="1 rounds were released without noise, so the epsilon spent is unlimited"):
        check_epsilon(policy, [EXACT], WANTED)
    with pytest.raises(ReleaseRefused, match=r"^epsilon [0-9.]+ is spent; with the rounds to come .* unlimited, and"):
        check_epsilon(policy, [ONE], (ExactEvent(),))


@pytest.mark.clause("2.3.7")
def test_rounds_to_come_must_be_left_in_the_budget() -> None:
    policy = replace(POLICY, releases=5)
    for made, wanted in ((0, 5), (4, 1), (5, 0)):
        check_budget(policy, made, wanted)
    for made, wanted, left in ((0, 6, 5), (4, 2, 1), (5, 1, 0), (9, 1, 0)):
        with pytest.raises(ReleaseRefused, match=f"{wanted} rounds are to come, and this text has {left} of 5 left"):
            check_budget(policy, made, wanted)


@pytest.mark.clause("14.6.2")
def test_so_many_accusations_refuse_every_plan() -> None:
    check_accusations(POLICY, 2)
    for standing in (3, 4):
        with pytest.raises(ReleaseRefused, match=f"^{standing} rounds ended after this silo had signed"):
            check_accusations(POLICY, standing)
    check_accusations(replace(POLICY, accusations=5), 4)


# policy.yaml.

WHOLE: dict[str, Any] = {
    "models": ["0a" * 32, "ff" * 32],
    "release_kinds": ["votes", "evaluation"],
    "least_survivors": 4,
    "least_cohort": 5,
    "least_honest_survivors": 2,
    "colluders": 1,
    "least_sparsity_ratio": 0.25,
    "most_sparsity_ratio": 0.7,
    "least_sparsity_ratio_of_others": 0,
    "most_sparsity_ratio_of_others": 1,
    "least_samples": 8,
    "most_samples": 8,
    "least_sequence_length": 64,
    "most_sequence_length": 65,
    "least_held_out_sequences": 2,
    "most_held_out_sequences": 3,
    "most_evaluations": 0,
    "most_rounds": 5,
    "accusations": 5,
    "budget": {"releases": 7, "epsilon": 0.5, "delta": 0.00001, "epoch": "2026-a"},
    "approval": "auto",
    "hours": {"days": ["mon", "fri"], "from": "22:30", "to": "06:00", "timezone": "Europe/Berlin"},
}


def read(folder: Path, content: object) -> Policy:
    (folder / "policy.yaml").write_text(yaml.safe_dump(content))
    return Policy.read(folder / "policy.yaml")


def test_a_policy_with_every_field(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE) == Policy(
        approval=Approval.AUTO,
        models=frozenset({"0a" * 32, "ff" * 32}),
        release_kinds=frozenset({ReleaseKind.VOTES, ReleaseKind.EVALUATION}),
        least_survivors=4,
        least_cohort=5,
        least_honest_survivors=2,
        colluders=1,
        least_sparsity_ratio=Decimal("0.25"),
        most_sparsity_ratio=Decimal("0.7"),
        least_sparsity_ratio_of_others=Decimal(0),
        most_sparsity_ratio_of_others=Decimal(1),
        least_samples=8,
        most_samples=8,
        least_sequence_length=64,
        most_sequence_length=65,
        least_held_out_sequences=2,
        most_held_out_sequences=3,
        most_evaluations=0,
        most_rounds=5,
        accusations=5,
        releases=7,
        epsilon=0.5,
        delta=0.00001,
        epoch="2026-a",
        hours=Hours(("mon", "fri"), time(22, 30), time(6), ZoneInfo("Europe/Berlin")),
    )


def test_what_a_policy_does_not_say(tmp_path: Path) -> None:
    """The defaults of docs/formats.md, section 12."""
    found = read(tmp_path, {"models": "any", "approval": "manual"})
    kinds = frozenset(map(ReleaseKind, ("votes", "weights", "scales", "outliers", "sampling", "evaluation")))
    ratios = (Decimal("0.1"), Decimal("0.9"))
    text = (16, 100_000, 32, 32_768, 16, 100_000)
    assert found == Policy(
        *(Approval.MANUAL, None, kinds, 3, 3, 3, 0, *ratios, *ratios, *text, 1, 100, 3, 100, 8, None, None, "", None)
    )
    assert read(tmp_path, {"models": "any", "approval": "manual", "budget": {"epsilon": "unlimited"}}) == found


@pytest.mark.clause("14.7.1")
def test_a_number_for_epsilon_needs_delta(tmp_path: Path) -> None:
    needed = {"models": "any", "approval": "manual"}
    with pytest.raises(ConfigError, match=r"policy\.yaml: budget: delta: is missing, and epsilon needs it"):
        read(tmp_path, {**needed, "budget": {"epsilon": 3}})
    assert read(tmp_path, {**needed, "budget": {"epsilon": 3, "delta": 0.001, "epoch": ""}}).epsilon == 3
    for budget in ({"epsilon": "unlimited"}, {"delta": 0.001}, {"epoch": "x" * 63}):
        assert read(tmp_path, {**needed, "budget": budget}).epsilon is None


@pytest.mark.parametrize("missing", ["models", "approval"])
def test_what_a_policy_must_say(missing: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.yaml: {missing}: is missing"):
        read(tmp_path, {name: value for name, value in WHOLE.items() if name != missing})


WRONG: list[tuple[str, list[object]]] = [
    ("models", ["none", [], ["0a" * 31], ["0A" * 32], [1], {"any": True}, None]),
    ("release_kinds", ["votes", [], ["text"], [["votes"]], None]),
    *((name, [1, 201, 3.0, True, "3", None]) for name in ("least_survivors", "least_cohort", "least_honest_survivors")),
    ("colluders", [-1, 198, 0.0, False, "0"]),
    *((f"{end}_samples", [0, 2**31, 1.0]) for end in ("least", "most")),
    *((f"{end}_sequence_length", [1, 2**31, "2"]) for end in ("least", "most")),
    *((f"{end}_held_out_sequences", [0, 2**31, None]) for end in ("least", "most")),
    *((f"{end}_sparsity_ratio", [-0.1, 1.1, "0.5", True, float("nan"), None, 2]) for end in ("least", "most")),
    *((f"{end}_sparsity_ratio_of_others", [-1, float("inf"), [0.5]]) for end in ("least", "most")),
    ("most_evaluations", [-1, 2**31, "1"]),
    ("most_rounds", [0, 2**31, False]),
    ("accusations", [0, 2**31, "3"]),
    ("approval", ["yes", True, None, ["manual"]]),
    ("budget", [None, 5, []]),
    ("hours", [None, "always", []]),
    ("budget: releases", [0, -1, 1.5, "100", True]),
    ("budget: epsilon", [0, -1, float("nan"), float("inf"), "infinite", True, None]),
    ("budget: delta", [0, 1, 0.0, 1.0, "0.1", float("nan"), True]),
    ("budget: epoch", ["A", "a b", "x" * 64, "a\n", 2026, None]),
    ("budget: rounds", [1]),
    ("hours: days", [[], "mon", ["monday"], [["mon"]], [1], None]),
    ("hours: from", ["8:00", "24:00", "08:60", 800, None, "06:00"]),
    ("hours: to", ["8:00", "24:00", 1080, None, "22:30"]),
    ("hours: timezone", ["Berlin", "", 1, "../UTC", "/etc/localtime", None]),
    ("hours: until", ["08:00"]),
    ("epsilon", [1.0]),
    ("releases", [1]),
    ("least_colluders", [1]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG for value in values])
def test_a_wrong_field_is_named_with_its_file(field: str, value: object, tmp_path: Path) -> None:
    group, _, name = field.rpartition(": ")
    changed = {**WHOLE, group: {**WHOLE[group], name: value}} if group else {**WHOLE, name: value}
    named = "to" if (field, value) == ("hours: from", "06:00") else name  # the same as the other end
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, changed)
    where = f"{tmp_path / 'policy.yaml'}: {group + ': ' if group else ''}{named}: "
    assert refused.value.message.startswith(where), refused.value.message
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "most", "problem"),
    [
        ({"least_samples": 9}, "most_samples", "8 is below least_samples, which is 9"),
        ({"most_sparsity_ratio": 0.2}, "most_sparsity_ratio", "0.2 is below least_sparsity_ratio, which is 0.25"),
        ({"least_held_out_sequences": 4}, "most_held_out_sequences", "3 is below least_held_out_sequences, which is 4"),
    ],
)
def test_a_bound_that_no_plan_could_meet(changes: dict[str, Any], most: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, {**WHOLE, **changes})
    assert refused.value.message == f"{tmp_path / 'policy.yaml'}: {most}: {problem}"


# Hours.

zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"]).map(ZoneInfo)
minutes = st.integers(0, 24 * 60 - 1)
days = st.sets(st.sampled_from(DAYS), min_size=1).map(lambda chosen: tuple(sorted(chosen, key=DAYS.index)))
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


def windows(hours: Hours, around: date) -> list[tuple[datetime, datetime]]:
    """As a wall clock would be read, without a time zone: where each begins and ends."""
    found = []
    for offset in range(-8, 9):
        day = around + timedelta(offset)
        if day.strftime("%a").lower() in hours.days:
            begin, end = (datetime.combine(day, at) for at in (hours.begin, hours.end))
            found.append((begin, end if end > begin else end + timedelta(1)))
    return found


@given(days, minutes, minutes, zones, moments)
def test_a_moment_is_within_hours_when_the_wall_clock_says_so(
    chosen: tuple[str, ...], begin: int, end: int, zone: ZoneInfo, now: datetime
) -> None:
    hours = Hours(chosen, time(*divmod(begin, 60)), time(*divmod((begin + 1 + end) % 1440, 60)), zone)
    if hours.begin == hours.end:
        return
    local = now.astimezone(zone).replace(tzinfo=None)
    assert hours.contains(now) == any(a <= local < b for a, b in windows(hours, local.date()))


@settings(max_examples=40)
@given(days, minutes, minutes, moments)
def test_hours_open_at_the_next_moment_that_is_within(
    chosen: tuple[str, ...], begin: int, end: int, now: datetime
) -> None:
    hours = Hours(chosen, time(*divmod(begin, 60)), time(*divmod((begin + 1 + end) % 1440, 60)), ZoneInfo("UTC"))
    if hours.begin == hours.end:
        return
    plain = now.replace(tzinfo=None)
    expected = min(max(a, plain) for a, b in windows(hours, plain.date()) if b > plain)
    assert hours.opens(now) == expected.replace(tzinfo=UTC)


def test_a_working_day_to_the_second() -> None:
    """It begins with its first moment and ends before its last."""
    hours = Hours(("wed",), time(8), time(18), ZoneInfo("UTC"))
    for moment, is_within in (("07:59:59.999", False), ("08:00", True), ("17:59:59.999", True), ("18:00", False)):
        assert hours.contains(datetime.fromisoformat(f"2026-01-07T{moment}+00:00")) is is_within


def test_a_night_shift_from_friday_to_saturday() -> None:
    """On a clock in Berlin, an hour ahead of UTC in winter."""
    night = Hours(("fri",), time(22), time(6), ZoneInfo("Europe/Berlin"))
    friday = datetime(2026, 1, 2, 20, 59, 59, tzinfo=UTC)
    assert not night.contains(friday)
    assert night.opens(friday) == datetime(2026, 1, 2, 21, tzinfo=UTC)
    assert night.contains(datetime(2026, 1, 3, 4, 59, 59, tzinfo=UTC))  # Saturday morning
    assert not night.contains(datetime(2026, 1, 3, 5, tzinfo=UTC))
    assert not night.contains(datetime(2026, 1, 2, 4, tzinfo=UTC))  # Friday morning is Thursday's night
    assert night.opens(datetime(2026, 1, 3, 5, tzinfo=UTC)) == datetime(2026, 1, 9, 21, tzinfo=UTC)


def test_a_promise_is_held_against_its_noise_before_anything_else_is_asked(
    message: plan_pb2.Plan, weights: DenseWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Plan) -> None:
        raise PlanError("promises more than its noise keeps")

    monkeypatch.setattr("silo_agent.rounds.offer_checks.check_promise", refuse)
    with pytest.raises(PlanError, match="promises more"):
        check(message, weights)


def test_whole_noise_is_true_or_false(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    for written, read in (("true", True), ("false", False)):
        file.write_text(f"approval: auto\nmodels: any\nwhole_noise: {written}\n")
        assert Policy.read(file).whole_noise is read
    file.write_text("approval: auto\nmodels: any\nwhole_noise: 1\n")
    with pytest.raises(ConfigError, match="whole_noise: must be true or false"):
        Policy.read(file)
