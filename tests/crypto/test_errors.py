"""The error tree: one code a class, exit codes of the command line's contract, one line a message."""

import inspect

import pytest

from crypto import errors
from crypto.backends.insecure_plaintext.sessions import InsecurePlaintextAggregator, InsecurePlaintextSilo
from crypto.errors import PlanError, ProtocolError, RoundAborted, SparsiloError
from crypto.names import Backend
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from sparsilo.v1 import plan_pb2
from support.plans import plan, plan_message

WRITTEN = [found for _, found in inspect.getmembers(errors, inspect.isclass) if found.__module__ == errors.__name__]
CLASSES = [found for found in WRITTEN if issubclass(found, SparsiloError)]


def test_every_class_is_an_error_of_the_tree() -> None:
    assert CLASSES == WRITTEN
    assert len(CLASSES) >= 18


def test_codes_are_distinct_and_machine_readable() -> None:
    codes = [found.code for found in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(found) for found in CLASSES)
    assert all(code.isascii() and code.islower() and code.replace("_", "").isalpha() for code in codes)


@pytest.mark.parametrize("found", CLASSES)
def test_the_exit_code_says_whose_fault_it_is(found: type[SparsiloError]) -> None:
    by_family = {errors.InputError: 4, errors.LinkError: 2, errors.TimedOut: 3}
    assert found.exit_code == next((code for base, code in by_family.items() if issubclass(found, base)), 1)
    assert found.exit_code in {1, 2, 3, 4}


@pytest.mark.parametrize("found", CLASSES)
def test_a_message_is_one_line_with_the_hint_after_it(found: type[SparsiloError]) -> None:
    assert str(found("field: is wrong")) == "field: is wrong"
    error = found("field: is wrong", hint="change it")
    assert (str(error), error.message, error.hint) == ("field: is wrong (change it)", "field: is wrong", "change it")


@pytest.mark.parametrize("found", [found for found in CLASSES if issubclass(found, ProtocolError)])
def test_a_broken_protocol_names_the_party(found: type[ProtocolError]) -> None:
    error = found("is late", party="silo-007", hint="restart it")
    assert (error.party, str(error)) == ("silo-007", "silo-007: is late (restart it)")
    assert found("is late").party == ""


def wrong_plan(text: str, where: str) -> plan_pb2.Plan:
    message = plan_message()
    match where:
        case "protocol":
            message.protocol = text
        case "silo":
            message.roster[3].silo = "z" + text
        case "tensor":
            message.model[0].name, message.model[0].digest = text, b""
        case "ratio":
            message.pruning.sparsity_ratio = text
        case "candidate":
            message.rounds.add().evaluation.sequences = 1
            message.rounds[1].evaluation.candidates.add(name=text)
    return message


@pytest.mark.parametrize("where", ["protocol", "silo", "tensor", "ratio", "candidate"])
def test_what_a_plan_says_cannot_break_the_line(where: str) -> None:
    for text in ("5\n", "5\r", "5\u2028"):
        with pytest.raises(PlanError) as refused:
            checked_plan(wrong_plan(text, where))
        assert str(refused.value).isprintable()


def test_what_an_aborting_aggregator_says_cannot_break_the_line() -> None:
    agreed = Round(plan(3, backend=Backend.INSECURE_PLAINTEXT), 0, b"")
    with pytest.raises(RoundAborted) as aborted:
        InsecurePlaintextSilo(agreed, "silo-000").receive(InsecurePlaintextAggregator(agreed).abort("a\n\x1b[2J"))
    assert str(aborted.value).isprintable()
