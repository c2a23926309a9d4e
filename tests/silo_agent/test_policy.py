"""What a silo refuses in a plan that is sound in itself but not this silo's (docs/protocol.md, 2.3.1)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crypto.errors import IdentityError, PlanError, SparsiloError
from crypto.names import Backend, Suite
from crypto.plan import Plan
from crypto.primitives.signing import SigningKey
from models import tiny_llama
from plans import llama_tensors, plan_message, signing_keys
from silo_agent.config import AgentConfig
from silo_agent.dense_weights import DenseWeights
from silo_agent.policy import check_plan
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
