"""What a silo refuses in a plan that is sound in itself but not this silo's (docs/protocol.md, 2.3.1)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crypto.errors import IdentityError, PlanError, SparsiloError, UnexpectedMessage
from crypto.names import Backend, Suite
from crypto.plan import Plan
from crypto.primitives.signing import SigningKey
from crypto.secagg.session import Round
from models import tiny_llama
from opened import Tensors, opened, planned
from plans import llama_tensors, plan_message, signing_keys
from silo_agent.config import AgentConfig
from silo_agent.dense_weights import DenseWeights
from silo_agent.opened_rounds import Start
from silo_agent.policy import check_plan, check_start
from sparsilo.v1 import plan_pb2

ROSTER = {silo: key.public_bytes for silo, key in signing_keys(4).items()}
X = Path()
CONFIG = AgentConfig("silo-002", "localhost:1", X, X, X, X, X, X, X, X)
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
    return message


def check(message: plan_pb2.Plan, weights: DenseWeights, config: AgentConfig = CONFIG) -> None:
    check_plan(Plan.of(message), config, ROSTER, weights, weights.digest())


def tensor(message: plan_pb2.Plan, name: str) -> plan_pb2.Tensor:
    return next(tensor for tensor in message.model if tensor.name == name)


def test_an_honest_plan_passes(message: plan_pb2.Plan, weights: DenseWeights) -> None:
    check(message, weights)
    message.backend = Backend.INSECURE_PLAINTEXT
    check(message, weights, replace(CONFIG, backend=Backend.INSECURE_PLAINTEXT))


def one_silo_less(message: plan_pb2.Plan) -> None:
    del message.roster[3]
    message.threshold, message.least_survivors = 2, 3


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
    """The plan withstands one colluder of four and opens sums over all four: three of them are honest."""
    message.colluders, message.least_survivors = 1, 4
    config = replace(CONFIG, colluders=colluders, least_honest_survivors=honest)
    if colluders > 1:
        with pytest.raises(PlanError, match="withstands 1 colluders and this silo asks for 2"):
            check(message, weights, config)
    elif honest > 3:
        with pytest.raises(PlanError, match="over 3 honest survivors and this silo asks for 4"):
            check(message, weights, config)
    else:
        check(message, weights, config)


def test_two_honest_survivors_are_too_few_for_a_silo_that_says_nothing_of_them(
    message: plan_pb2.Plan, weights: DenseWeights
) -> None:
    message.colluders, message.threshold, message.least_survivors, message.two_honest_survivors = 2, 4, 4, True
    with pytest.raises(PlanError, match="over 2 honest survivors and this silo asks for 3"):
        check(message, weights)
    check(message, weights, replace(CONFIG, least_honest_survivors=2))


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
    message.least_survivors, message.two_honest_survivors = 4, two
    config, honest = replace(CONFIG, least_honest_survivors=asked), 2 if two else 3
    check(message, weights, config)
    sampled(message)
    if asked <= honest:
        check(message, weights, config)
    else:
        with pytest.raises(PlanError, match=f"over {honest} honest survivors and this silo asks for {asked}"):
            check(message, weights, config)


# What a round starts from.

BLOCKS: Tensors = {f"blocks.{block}.weight": (block, (2, 3), False) for block in range(4)}


def started(folder: Path) -> Start:
    """After the coin was opened; the next round is block 0's."""
    plan = planned(BLOCKS, cohort_floor=3, capacities=(3, 2, 3, 2, 2))
    return Start(plan, [opened(Start(plan).round, {"coin": [1, 2, 3, 4]}, 5, folder, bytes([7] * 32))])


@pytest.mark.clause("2.2.3", "2.2.4", "2.6.2")
def test_a_round_starts_from_what_was_opened_and_with_the_cohort_that_was_drawn(tmp_path: Path) -> None:
    start = started(tmp_path)
    honest = start.round
    drawn, others = honest.cohort, [silo for silo in start.plan.silos if silo not in honest.cohort]
    assert (len(drawn), len(others)) == (3, 2)
    for silo in drawn:
        check_start(honest, start, silo)
    for silo in others:
        with pytest.raises(UnexpectedMessage, match=r"^aggregator: offers round 1 to a silo that is not in its cohort"):
            check_start(honest, start, silo)
    for input_ in (bytes(32), honest.input_digest[::-1], b""):
        with pytest.raises(UnexpectedMessage, match=r"^aggregator: offers round 1 with another input"):
            check_start(replace(honest, input_digest=input_), start, drawn[0])
    for cohort in ((*drawn, others[0]), (*drawn[:2], others[1]), drawn[:2], drawn[::-1], ()):
        for silo in {*drawn, *cohort}:
            with pytest.raises(UnexpectedMessage, match=r"^aggregator: offers round 1 with another cohort"):
                check_start(replace(honest, cohort=cohort), start, silo)


@pytest.mark.clause("2.2.3")
def test_a_first_round_starts_from_nothing_and_is_for_all() -> None:
    start = Start(planned(BLOCKS, cohort_floor=3, capacities=(3, 2, 3, 2, 2)))
    for silo in start.plan.silos:
        check_start(start.round, start, silo)
    with pytest.raises(UnexpectedMessage, match="another input"):
        check_start(Round(start.plan, 0, bytes(32)), start, "silo-000")
    with pytest.raises(UnexpectedMessage, match="another cohort"):
        check_start(Round(start.plan, 0, b"", start.plan.silos), start, "silo-000")
