"""Every rule of a plan by changing one field of a valid one; digests and layouts against calculations by hand."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from itertools import product
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from crypto.errors import MalformedMessage, PlanError
from crypto.names import Backend, ComparisonGroup, ReleaseKind
from crypto.plan import MAX_PLAN_BYTES, Plan, least_threshold
from crypto.plan_rules import check_cohort, checked_plan, decode_plan
from crypto.pruning.sparsity import Pattern, group_shape, parse_ratio
from crypto.releases.planned_rounds import planned_rounds, pruning_rounds
from crypto.releases.release_spec import has_input, layout_of
from crypto.secagg.round import Round
from sparsilo.v1 import plan_pb2
from support.plans import plan, plan_message

Edit = Callable[[plan_pb2.Plan], Any]


def edited(edit: Edit, silos: int = 4) -> plan_pb2.Plan:
    message = plan_message(silos)
    edit(message)
    return message


def put(**fields: object) -> Edit:
    """Set fields of the plan or of its pruning."""

    def edit(message: plan_pb2.Plan) -> None:
        for name, value in fields.items():
            part = message if name in message.DESCRIPTOR.fields_by_name else message.pruning
            setattr(part, name, value)

    return edit


def shape(*dimensions: int, chunk_words: int = 1 << 18) -> Edit:
    def edit(message: plan_pb2.Plan) -> None:
        message.model[0].shape[:] = dimensions
        message.chunk_words = chunk_words

    return edit


def evaluation(*candidates: plan_pb2.Candidate, sequences: int = 1) -> Edit:
    def edit(message: plan_pb2.Plan) -> None:
        message.rounds.add().evaluation.CopyFrom(plan_pb2.Evaluation(sequences=sequences, candidates=candidates))

    return edit


DENSE = plan_pb2.Candidate(name="dense", dense=True)
DIGEST = plan_pb2.Candidate(name="federated", digest=b"d" * 32)


def swap_roster(message: plan_pb2.Plan) -> None:
    message.roster[1].silo, message.roster[2].silo = message.roster[2].silo, message.roster[1].silo


def rename(new: str) -> Edit:
    def edit(message: plan_pb2.Plan) -> None:
        message.roster[3].silo = new

    return edit


def cohort(silos: int) -> Edit:
    def edit(message: plan_pb2.Plan) -> None:
        message.CopyFrom(plan_message(silos))

    return edit


def honest(survivors: int, *, two: bool) -> Edit:
    """Five silos, all of whom must survive, and as many colluders as leave so many honest ones."""

    def edit(message: plan_pb2.Plan) -> None:
        message.CopyFrom(plan_message(5, threshold=5, colluders=5 - survivors))
        message.two_honest_survivors = two

    return edit


def no_prunable(message: plan_pb2.Plan) -> None:
    for tensor in message.model:
        tensor.prunable = False


def files(*named: tuple[str, int]) -> Edit:
    def change(message: plan_pb2.Plan) -> None:
        message.files.extend(plan_pb2.File(name=name, digest=bytes(size)) for name, size in named)

    return change


ASCENDING = "names must ascend, each once"
REFUSED: dict[str, tuple[Edit, str]] = {
    "other protocol": (put(protocol="sparsilo/2"), "protocol"),
    "no protocol": (put(protocol=""), "protocol"),
    "short run": (put(run=bytes(15)), "run"),
    "long run": (put(run=bytes(17)), "run"),
    "unknown suite": (put(suite="aes128"), "suite"),
    "unknown backend": (put(backend="plaintext"), "backend"),
    "no backend": (put(backend=""), "backend"),
    "two silos": (cohort(2), "roster: has 2 silos"),
    "201 silos": (cohort(201), "roster: has 201 silos"),
    "roster out of order": (swap_roster, f"roster: {ASCENDING}"),
    "roster name twice": (rename("silo-002"), f"roster: {ASCENDING}"),
    "short signing key": (lambda m: m.roster[1].ClearField("signing_key"), "roster silo-001: .*signing key"),
    "long signing key": (
        lambda m: setattr(m.roster[1], "signing_key", m.roster[1].signing_key + b"x"),
        "roster silo-001: .*signing key",
    ),
    "shared signing key": (lambda m: setattr(m.roster[1], "signing_key", m.roster[2].signing_key), "roster: two"),
    "threshold too low": (put(threshold=2, least_survivors=3), "threshold: 2 .*4 silos and 0 colluders: 3 to 4"),
    "threshold too low for colluders": (
        put(colluders=2),
        "threshold: 3 .*4 silos and 2 colluders: 5 to 4, or one less",
    ),
    "threshold above the silos": (put(threshold=5, least_survivors=4), "threshold: 5"),
    "more colluders than can be withstood": (put(colluders=4), "threshold: 3"),
    "least survivors below the threshold": (put(least_survivors=2), r"least_survivors: 2 .*: 3 \(the threshold\) to 4"),
    "least survivors above the silos": (put(least_survivors=5), "least_survivors: 5"),
    "two honest silos": (honest(2, two=False), "threshold: 5 .*: 6 to 5, or one less where"),
    "one honest silo": (honest(1, two=True), "threshold: 5 .*: 6 to 5$"),
    "one honest silo of two": (honest(1, two=False), "threshold: 5 .*: 7 to 5, or one less where"),
    "no tensor": (lambda m: m.ClearField("model"), "model: has no prunable tensor"),
    "no prunable tensor": (no_prunable, "model: has no prunable tensor"),
    "model out of order": (lambda m: setattr(m.model[0], "name", "c"), f"model: {ASCENDING}"),
    "tensor twice": (lambda m: setattr(m.model[0], "name", "blocks.1.weight"), f"model: {ASCENDING}"),
    "short tensor digest": (lambda m: setattr(m.model[1], "digest", bytes(31)), "model blocks.1.weight: digest"),
    "long tensor digest": (lambda m: setattr(m.model[1], "digest", bytes(33)), "model blocks.1.weight: digest"),
    "prunable vector": (shape(6), "model blocks.0.weight: only a matrix"),
    "prunable cube": (shape(6, 2, 5), "model blocks.0.weight: only a matrix"),
    "prunable scalar": (shape(), "model blocks.0.weight: only a matrix"),
    "prunable and empty": (shape(6, 0), "model blocks.0.weight: only a matrix"),
    "files out of order": (files(("b", 32), ("a", 32)), f"files: {ASCENDING}"),
    "file twice": (files(("a", 32), ("a", 32)), f"files: {ASCENDING}"),
    "short file digest": (files(("a", 32), ("b", 31)), "files b: digest must be 32 bytes"),
    "long file digest": (files(("a", 33)), "files a: digest must be 32 bytes"),
    "no work": (lambda m: m.ClearField("pruning"), "work: is none"),
    "unknown pruner": (put(pruner="taylor"), "pruner"),
    "ratio of one": (put(sparsity_ratio="1"), "sparsity ratio"),
    "negative ratio": (put(sparsity_ratio="-0.5"), "sparsity ratio"),
    "no ratio": (put(sparsity_ratio=""), "sparsity ratio"),
    "ratio in words": (put(sparsity_ratio="half"), "sparsity ratio"),
    "ratio that is no number": (put(sparsity_ratio="NaN"), "sparsity ratio"),
    "infinite ratio": (put(sparsity_ratio="Infinity"), "sparsity ratio"),
    "column groups": (put(comparison_group="column"), "comparison group: column"),
    "unknown group": (put(comparison_group="block"), "comparison group"),
    "no samples": (put(samples=0), "samples"),
    "sequences of one token": (put(sequence_length=1), "sequence length"),
    "no chunk words": (put(chunk_words=0), "chunk_words"),
    "too large chunks": (put(chunk_words=(1 << 18) + 1), "chunk_words"),
    "no phase seconds": (put(phase_seconds=0), "phase_seconds"),
    "no preparation seconds": (put(preparation_seconds=0), "preparation_seconds"),
    "no rounds": (lambda m: m.ClearField("rounds"), "rounds: are 0"),
    "round without a release": (lambda m: m.rounds.add(), r"rounds\[1\]: names no release"),
    "no held-out sequences": (evaluation(DENSE, sequences=0), r"rounds\[1\]: holds out no sequences"),
    "no candidates": (evaluation(), r"rounds\[1\]: has no candidates"),
    "candidate name twice": (
        evaluation(DENSE, plan_pb2.Candidate(name="dense", digest=bytes(32))),
        r"rounds\[1\]: two candidates share a name",
    ),
    "candidate without a keep mask": (
        evaluation(plan_pb2.Candidate(name="none")),
        r"rounds\[1\]: candidate 'none' names no usable keep mask",
    ),
    "candidate that is not dense": (evaluation(plan_pb2.Candidate(name="n", dense=False)), r"rounds\[1\]: candidate"),
    "short candidate digest": (
        evaluation(DENSE, plan_pb2.Candidate(name="n", digest=bytes(31))),
        r"rounds\[1\]: candidate 'n'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_wrong_field_is_refused_by_name(case: str) -> None:
    edit, field = REFUSED[case]
    with pytest.raises(PlanError, match=f"^(plan: )?{field}"):
        checked_plan(edited(edit))


ACCEPTED: dict[str, Edit] = {
    "as it is": put(),
    "three silos": cohort(3),
    "200 silos": cohort(200),
    "all silos must survive": put(threshold=4, least_survivors=4),
    "threshold above the least": put(threshold=4, least_survivors=4, colluders=1),
    "three honest silos": honest(3, two=False),
    "three honest silos where two would do": honest(3, two=True),
    "two honest silos, in so many words": honest(2, two=True),
    "two colluders of four": put(threshold=4, least_survivors=4, colluders=2, two_honest_survivors=True),
    "least survivors above the threshold": put(least_survivors=4),
    "one of three colludes": lambda m: m.CopyFrom(plan_message(3, threshold=3, colluders=1)),
    "largest chunks": put(chunk_words=1 << 18),
    "smallest chunks": put(chunk_words=1),
    "one second": put(phase_seconds=1, preparation_seconds=1),
    "sequences of two tokens": put(samples=1, sequence_length=2),
    "nothing is pruned": put(sparsity_ratio="0"),
    "row groups": put(comparison_group="row"),
    "plaintext by name": put(backend="insecure_plaintext"),
    "a vector that is not pruned": lambda m: m.model.add(name="norm", digest=bytes(32), shape=[6]),
    "a scalar that is not pruned": lambda m: m.model.add(name="scale", digest=bytes(32)),
    "one candidate": evaluation(DENSE),
    "two candidates": evaluation(DENSE, DIGEST),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_the_bounds_themselves_are_accepted(case: str) -> None:
    message = edited(ACCEPTED[case])
    agreed = checked_plan(message)
    assert agreed.message == message
    assert decode_plan(agreed.encoded) == agreed


@pytest.mark.parametrize("name", ["z", "z0", "zz-9", "z--z", "z" + "a" * 62])
def test_a_dns_label_is_a_silo_name(name: str) -> None:
    assert checked_plan(edited(rename(name))).silos[3] == name


@pytest.mark.parametrize(
    "name", ["z-", "zA", "z_z", "z.z", "z z", "zé", "z\n", "z\0", "z/", "z" + "a" * 63, "silo-003-", "silo-003٣"]
)
def test_any_other_silo_name_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=r"^plan: roster '"):
        checked_plan(edited(rename(name)))


@pytest.mark.parametrize("name", ["", "-silo", "Silo"])
def test_a_first_silo_name_is_checked_too(name: str) -> None:
    with pytest.raises(PlanError, match=r"^plan: roster '"):
        checked_plan(edited(lambda m: setattr(m.roster[0], "silo", name)))


@pytest.mark.parametrize(
    ("rows", "chunk_words", "chunks"),
    [
        ((1 << 20) - 1, 1, 1 << 20),
        (1 << 20, 1, (1 << 20) + 1),
        ((1 << 21) - 2, 2, 1 << 20),
        ((1 << 21) - 1, 2, 1048577),
    ],
)
def test_a_round_has_at_most_a_million_chunks(rows: int, chunk_words: int, chunks: int) -> None:
    """Four silos' votes are 3 bits, 21 to a word: a row of 21 is a word, and the counts are one chunk more."""
    message = edited(shape(rows, 21, chunk_words=chunk_words))
    message.model[1].prunable = False
    if chunks <= 1 << 20:
        checked_plan(message)
    else:
        with pytest.raises(PlanError, match=rf"^plan: chunk_words: .*rounds\[0\] has {chunks} chunks"):
            checked_plan(message)


def test_every_round_is_held_to_its_number_of_chunks() -> None:
    def second(message: plan_pb2.Plan) -> None:
        message.pruning.schedule = "iterative"
        message.model[1].block = 1
        message.model[1].shape[:] = 1 << 20, 21
        message.chunk_words = 1
        del message.rounds[:]
        for block in range(2):
            message.rounds.add(block=block).votes.SetInParent()

    with pytest.raises(PlanError, match=r"^plan: chunk_words: .*rounds\[1\] has 10485\d\d chunks"):
        checked_plan(edited(second))


def test_a_plan_has_at_most_its_bytes() -> None:
    message = plan_message()
    spare = MAX_PLAN_BYTES - message.ByteSize()
    tensor = message.model.add(name="norm" + "x" * spare, digest=bytes(32))
    tensor.name = tensor.name[: len(tensor.name) - (message.ByteSize() - MAX_PLAN_BYTES)]
    assert len(checked_plan(message).encoded) == MAX_PLAN_BYTES
    tensor.name += "x"
    with pytest.raises(MalformedMessage, match=r"^Plan: \d+ bytes, at most"):
        checked_plan(message)


def test_a_tensor_too_large_to_count_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="model"):
        checked_plan(edited(shape(1 << 40, 1 << 40)))


def test_the_number_of_rounds_is_bounded() -> None:
    with pytest.raises(PlanError, match="rounds"):
        checked_plan(edited(lambda m: m.rounds.extend([plan_pb2.Round(votes=plan_pb2.Votes())] * 5000)))


def test_other_bytes_than_the_canonical_ones_are_no_plan() -> None:
    encoded = plan().encoded
    for data in (encoded[:-1], encoded + b"\x80\x7d\x01", encoded + encoded[-2:], b"\xff"):  # the field 2000
        with pytest.raises(MalformedMessage, match=r"^Plan: "):
            decode_plan(data)


# Sparsity ratios.


@given(st.integers(1, 26), st.data())
def test_a_ratio_is_the_exact_decimal_in_its_one_spelling(places: int, data: st.DataObject) -> None:
    digits = data.draw(st.integers(1, 10**places - 1).filter(lambda number: number % 10))
    text = f"0.{digits:0{places}d}"
    agreed = checked_plan(edited(put(sparsity_ratio=text)))
    assert Fraction(agreed.pruning.sparsity.target) == Fraction(digits, 10**places)
    for other in (text + "0", text[1:], "0" + text, "+" + text, text + "E0", f"{digits}E-{places}", " " + text):
        with pytest.raises(PlanError, match=r"^plan: sparsity ratio: .*must be written '" + text.replace(".", r"\.")):
            checked_plan(edited(put(sparsity_ratio=other)))


@pytest.mark.parametrize("text", ["0.0", "00", "0.", ".0", "+0", "0E1", "0e-3", "0_0", "\uff10"])
def test_zero_has_one_spelling(text: str) -> None:
    with pytest.raises(PlanError, match=r"sparsity ratio: .*must be written '0'"):
        checked_plan(edited(put(sparsity_ratio=text)))


def test_minus_zero_is_no_second_spelling_of_zero() -> None:
    with pytest.raises(PlanError, match="sparsity ratio"):
        checked_plan(edited(put(sparsity_ratio="-0")))


def test_a_long_ratio_is_exact_or_refused_for_what_it_is() -> None:
    text = "0." + "9" * 29
    try:
        assert checked_plan(edited(put(sparsity_ratio=text))).pruning.sparsity.target == Decimal(text)
    except PlanError as error:
        assert "must be written '1'" not in str(error)


@pytest.mark.parametrize(
    "text", ["1", "1.0", "-0.1", "-1E-30", "2", "NaN", "sNaN", "-Infinity", "", "0,5", "1/2", "0x1"]
)
def test_what_is_no_ratio_is_refused_with_what_to_give(text: str) -> None:
    with pytest.raises(PlanError, match="sparsity ratio") as refused:
        parse_ratio(text)
    assert "0.5" in refused.value.hint


@pytest.mark.parametrize("text", ["0", "0.5", "0.70", "5e-1", "0.999999999999999999999999999"])
def test_a_command_line_may_spell_a_ratio_as_it_likes(text: str) -> None:
    assert parse_ratio(text) == Decimal(text)


# Thresholds.


@pytest.mark.clause("2.1.4")
@given(st.integers(1, 300), st.integers(0, 300), st.integers(2, 3))
@example(4, 0, 2)
@example(5, 0, 3)
@example(3, 0, 3)
def test_the_least_threshold_is_the_first_of_a_majority_with_honest_silos_enough(
    silos: int, colluders: int, honest: int
) -> None:
    enough = (t for t in range(1000) if 2 * t > silos + colluders and t - colluders >= honest)
    assert least_threshold(silos, colluders, honest) == next(enough)


@pytest.mark.parametrize("silos", range(3, 12))
def test_exactly_the_thresholds_that_are_safe_and_can_be_met_are_accepted(silos: int) -> None:
    for colluders, threshold, two in product(range(silos + 2), range(silos + 3), (False, True)):
        fields = put(threshold=threshold, least_survivors=threshold, colluders=colluders, two_honest_survivors=two)
        message = edited(fields, silos)
        enough = threshold - colluders >= (2 if two else 3)
        valid = 2 * threshold > silos + colluders and threshold <= silos and enough
        try:
            checked_plan(message)
        except PlanError:
            assert not valid
        else:
            assert valid


# Digests.


def leaves(message: Message) -> Iterator[Callable[[Message], None]]:
    """For every scalar below `message`, a change of it."""

    def path_to(name: str, index: int | None) -> Callable[[Message], Any]:
        return lambda root: getattr(root, name) if index is None else getattr(root, name)[index]

    def bumped(value: Any) -> Any:
        if isinstance(value, bool):
            return not value
        return value + (1 if isinstance(value, int) else "x" if isinstance(value, str) else b"x")

    for spec, value in message.ListFields():
        for index in range(len(value)) if spec.is_repeated else [None]:
            if spec.message_type is not None:
                step = path_to(spec.name, index)
                for change in leaves(step(message)):
                    yield lambda root, step=step, change=change: change(step(root))  # type: ignore[misc]
            elif index is None:
                yield lambda root, name=spec.name: setattr(root, name, bumped(getattr(root, name)))  # type: ignore[misc]
            else:

                def bump(root: Message, name: str = spec.name, index: int = index) -> None:
                    getattr(root, name)[index] = bumped(getattr(root, name)[index])

                yield bump


def digest(message: plan_pb2.Plan) -> bytes:
    return Plan(message, message.SerializeToString(deterministic=True)).digest


def test_a_change_of_any_field_changes_the_digest() -> None:
    def whole() -> plan_pb2.Plan:
        message = edited(evaluation(DENSE, DIGEST))
        message.colluders = 1
        return message

    scalars = sum(
        spec.type != FieldDescriptor.TYPE_MESSAGE
        for part in (plan_pb2.Plan, plan_pb2.Member, plan_pb2.Tensor, plan_pb2.Pruning, plan_pb2.Evaluation)
        for spec in part.DESCRIPTOR.fields
    )
    digests = [digest(whole())]
    for change in leaves(whole()):
        message = whole()
        change(message)
        digests.append(digest(message))
    edits: list[Edit] = [
        lambda m: m.roster.pop(),
        lambda m: m.model.pop(),
        lambda m: m.rounds.pop(),
        lambda m: m.rounds.reverse(),
        lambda m: m.rounds[1].evaluation.candidates.pop(),
        lambda m: m.rounds[1].evaluation.candidates[0].ClearField("keep_mask"),
    ]
    for edit in edits:
        message = whole()
        edit(message)
        digests.append(digest(message))
    assert len(set(digests)) == len(digests) > scalars


def test_the_digest_is_sha256_with_a_domain_tag() -> None:
    agreed = plan()
    assert agreed.digest == sha256(b"sparsilo/1 plan" + plan_message().SerializeToString(deterministic=True)).digest()


def test_a_round_digest_binds_plan_index_and_input() -> None:
    plans = [plan(), plan(run=b"fedcba9876543210")]
    inputs = [b"", bytes(32), b"\x01" + bytes(31)]
    digests = {p.round_digest(index, data) for p in plans for index in (0, 1, 256) for data in inputs}
    assert len(digests) == 2 * 3 * 3
    by_hand = sha256(b"sparsilo/1 round" + plans[0].digest + b"\x02\x01\0\0" + inputs[2]).digest()
    assert plans[0].round_digest(0x102, inputs[2]) == by_hand


# What a plan says about its round.


def test_members_by_name() -> None:
    agreed = plan(5)
    for index, silo in enumerate(agreed.silos):
        assert agreed.point(silo) == index + 1
        assert agreed.signing_key(silo) == agreed.message.roster[index].signing_key
    assert agreed.backend is Backend.DOUBLE_MASKING
    assert agreed.pruning.comparison_group is ComparisonGroup.LAYER


def test_release_kinds_by_round() -> None:
    agreed = checked_plan(edited(evaluation(DENSE)))
    assert [agreed.release_kind(index) for index in (0, 1)] == [ReleaseKind.VOTES, ReleaseKind.EVALUATION]


@pytest.mark.parametrize(
    ("group", "expected"),
    [(ComparisonGroup.LAYER, (1, 12)), (ComparisonGroup.ROW, (3, 4)), (ComparisonGroup.COLUMN, (4, 3))],
)
def test_group_shapes(group: ComparisonGroup, expected: tuple[int, int]) -> None:
    assert group_shape((3, 4), group) == expected


def bits_for(largest: int) -> int:
    width = 1
    while 2**width <= largest:
        width += 1
    return width


@pytest.mark.parametrize("group", ["layer", "row"])
@pytest.mark.parametrize("silos", [3, 4, 7, 8, 15, 16, 200])
@pytest.mark.parametrize("chunk_words", [1, 4, 1 << 18])
def test_a_votes_layout_by_hand(group: str, silos: int, chunk_words: int) -> None:
    message = plan_message(silos, group=group, chunk_words=chunk_words, tensors=3)
    message.model[0].shape[:] = (5, 40)
    message.model[1].prunable = False
    message.model[2].shape[:] = (33, 2)
    layout = layout_of(checked_plan(message), 0)
    expected, words = [], 0
    for name, rows, columns in (("blocks.0.weight", 5, 40), ("blocks.2.weight", 33, 2)):
        groups, size = (1, rows * columns) if group == "layer" else (rows, columns)
        for title, lanes, largest in ((f"votes {name}", rows * columns, 1), (f"nonzero counts {name}", groups, size)):
            width = bits_for(silos * largest)
            expected.append((title, lanes, width))
            body, room = 0, 0
            for _ in range(lanes):
                body, room = (body + 1, 64 - width) if room < width else (body, room - width)
            words += body + sum(1 for start in range(body) if start % chunk_words == 0)  # a header a chunk
    assert [(section.name, section.lanes, section.width) for section in layout.sections] == expected
    assert layout.chunk_words == chunk_words
    assert layout.total_words == words


def test_an_evaluation_layout() -> None:
    layout = layout_of(checked_plan(edited(evaluation(DENSE, DIGEST))), 1)
    assert [(section.name, section.lanes, section.width) for section in layout.sections] == [
        ("negative log-likelihood", 2, 64),
        ("tokens", 2, 64),
    ]


def test_lanes_hold_the_whole_roster_whatever_may_be_lost() -> None:
    """16 silos of which 9 are enough: a sum over all 16 still needs 5 bits."""
    assert {section.width for section in layout_of(plan(16, threshold=9), 0).sections} == {5, bits_for(16 * 60)}


# Pruning: what belongs together.


def by_block(**fields: object) -> plan_pb2.Plan:
    """Four silos and two blocks of one tensor each, with the rounds that the fields ask for."""
    message = plan_message(4)
    message.model[1].block = 1
    put(**fields)(message)
    return message


def with_rounds(message: plan_pb2.Plan, release: ReleaseKind = ReleaseKind.VOTES) -> plan_pb2.Plan:
    del message.rounds[:]
    for kind, block in planned_rounds(Plan(message, b""), release):
        getattr(message.rounds.add(block=block), kind).SetInParent()
    return message


def sampled(floor: int = 3, capacities: tuple[int, ...] = (2, 2, 1, 1), **fields: object) -> plan_pb2.Plan:
    message = by_block(cohort_floor=floor, **fields)
    for member, capacity in zip(message.roster, capacities, strict=True):
        member.capacity = capacity
    return with_rounds(message)


def rounds(message: plan_pb2.Plan) -> list[tuple[str, int | None]]:
    agreed = checked_plan(message)
    return [(agreed.release_kind(index), agreed.block(index)) for index in range(len(message.rounds))]


PRUNED, OWN = plan_pb2.Candidate(name="p", pruned=True), plan_pb2.Candidate(name="o", own=True)
SELF_CALIBRATED = plan_pb2.Candidate(name="s", self_calibrated=True)


@pytest.mark.clause("2.1.7", "14.3.1")
def test_what_was_pruned_is_evaluated_after_it_was() -> None:
    for message in (
        with_rounds(by_block()),
        with_rounds(by_block(schedule="iterative")),
        sampled(capacities=(2, 2, 1, 1)),
    ):
        pruning = len(message.rounds)
        evaluation(DENSE, PRUNED)(message)
        evaluation(DENSE, SELF_CALIBRATED)(message)
        plan = checked_plan(message)
        assert pruning_rounds(plan) == pruning
        assert [has_input(plan, index) for index in (pruning, pruning + 1)] == [True, False]
        evaluation(OWN)(message)
        if pruning == 1:
            assert has_input(checked_plan(message), 3)
        else:  # a silo has no model of its own
            with pytest.raises(PlanError, match="candidate 'o' names no usable keep mask"):
                checked_plan(message)


@pytest.mark.clause("2.1.7")
@pytest.mark.parametrize(
    "candidate",
    [
        *(PRUNED, OWN, SELF_CALIBRATED),
        *(plan_pb2.Candidate(**{field: False}) for field in ("pruned", "own", "self_calibrated")),
    ],
)
def test_what_no_round_pruned_is_not_evaluated(candidate: plan_pb2.Candidate) -> None:
    message = edited(evaluation(candidate))
    if candidate.name:
        checked_plan(message)
        del message.rounds[0]
    with pytest.raises(PlanError, match=rf"candidate '{candidate.name}' names no usable keep mask"):
        checked_plan(message)


@pytest.mark.clause("2.1.7")
def test_a_pruner_that_reads_no_text_is_not_calibrated() -> None:
    message = edited(evaluation(SELF_CALIBRATED))
    checked_plan(message)
    message.pruning.pruner = "magnitude"
    with pytest.raises(PlanError, match="candidate 's' names no usable keep mask"):
        checked_plan(message)


@pytest.mark.clause("2.1.1")
def test_the_rounds_follow_from_the_pruning() -> None:
    weights = ReleaseKind.WEIGHTS
    assert rounds(with_rounds(by_block())) == [("votes", None)]
    assert rounds(with_rounds(by_block(schedule="iterative"))) == [("votes", 0), ("votes", 1)]
    assert rounds(with_rounds(by_block(allocation="owl"))) == [("outliers", None), ("votes", None)]
    assert rounds(with_rounds(by_block(pruner="sparsegpt"), weights)) == [("scales", None), ("weights", None)]
    both = by_block(pruner="sparsegpt", schedule="iterative", allocation="owl")
    blocks = [("scales", 0), ("weights", 0), ("scales", 1), ("weights", 1)]
    assert rounds(with_rounds(both, weights)) == [("outliers", None), *blocks]
    assert rounds(sampled(capacities=(2, 2, 1, 1))) == [("sampling", None), ("votes", 0), ("votes", 1)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.rounds.pop(),
        lambda m: m.rounds.reverse(),
        lambda m: m.rounds.add(block=1).votes.SetInParent(),
        lambda m: m.rounds[1].ClearField("block"),
        lambda m: setattr(m.rounds[1], "block", 2),
        lambda m: m.rounds[0].evaluation.CopyFrom(plan_pb2.Evaluation(sequences=1, candidates=[DENSE])),
    ],
)
def test_other_rounds_are_refused(edit: Edit) -> None:
    message = with_rounds(by_block(schedule="iterative"))
    edit(message)
    with pytest.raises(PlanError, match=r"^plan: rounds: are not those"):
        checked_plan(message)


def test_weights_that_no_pruner_changes_are_not_summed() -> None:
    with pytest.raises(PlanError, match=r"^plan: rounds: sum weights, and wanda leaves kept weights as they are"):
        checked_plan(with_rounds(by_block(pruner="wanda"), ReleaseKind.WEIGHTS))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"pattern": "2:4", "sparsity_ratio": "0.5", "comparison_group": "row"}, "pattern: leaves no choice"),
        ({"pattern": "2:5", "sparsity_ratio": "", "comparison_group": "layer"}, "comparison group: must be row"),
        (
            {"pattern": "2:4", "sparsity_ratio": "", "comparison_group": "row"},
            "model blocks.0.weight: has inputs that 2:4 does not divide",
        ),
        ({"pattern": "2:1", "sparsity_ratio": "", "comparison_group": "row"}, "pattern: '2:1' is no n:m"),
        (
            {"pattern": "2:5", "sparsity_ratio": "", "comparison_group": "row", "allocation": "owl"},
            "pattern: leaves no choice",
        ),
        ({"sparsity_ratio": ""}, "sparsity ratio: '' is not a decimal number"),
        ({"allocation": "uniform"}, "allocation: 'uniform' is unknown"),
        ({"schedule": "one-shot"}, "schedule: 'one-shot' is unknown"),
        ({"cohort_floor": 2}, "cohort_floor: 2 is out of range: 3"),
        ({"cohort_floor": 5}, "cohort_floor: 5 is out of range"),
        ({"cohort_floor": 3}, "capacity: must be 1 to 2 blocks"),
    ],
)
def test_pruning_that_contradicts_itself_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(PlanError, match=f"^(plan: )?{problem}"):
        checked_plan(with_rounds(by_block(**fields)))


@pytest.mark.clause("2.1.6", "2.1.10")
def test_alpha_comes_with_an_exponent_a_block_and_no_round_of_its_own() -> None:
    for exponents in (["1.0000", "999999.9999"], ["2.5000", "2.5000"]):
        message = by_block(allocation="alpha")
        message.pruning.block_alphas.extend(exponents)
        assert rounds(with_rounds(message)) == [("votes", None)]


@pytest.mark.parametrize(
    ("fields", "exponents", "problem"),
    [
        ({"allocation": "alpha"}, [], "block_alphas: are 0, and must be 2"),
        ({"allocation": "alpha"}, ["2.0000"] * 3, "block_alphas: are 3, and must be 2"),
        ({"allocation": "owl"}, ["2.0000"] * 2, "block_alphas: are 2, and must be 0"),
        ({}, ["2.0000"] * 2, "block_alphas: are 2, and must be 0"),
        ({"pattern": "2:5", "sparsity_ratio": "", "comparison_group": "row"}, ["2.0000"] * 2, "block_alphas: are 2"),
        (
            {"pattern": "2:5", "sparsity_ratio": "", "comparison_group": "row", "allocation": "alpha"},
            ["2.0000"] * 2,
            "pattern: leaves no choice",
        ),
        *(
            ({"allocation": "alpha"}, ["2.0000", spelled], "block_alphas: '.*' is not from 1")
            for spelled in (
                "",
                "2",
                "2.5",
                "02.0000",
                "2.00000",
                "0.9999",
                "-2.0000",
                "nan",
                "1000000.0000",
                "2.0000\n",
            )
        ),
    ],
)
def test_exponents_that_say_nothing_are_refused(fields: dict[str, str], exponents: list[str], problem: str) -> None:
    message = by_block(**fields)
    message.pruning.block_alphas.extend(exponents)
    with pytest.raises(PlanError, match=f"^plan: {problem}"):
        checked_plan(with_rounds(message))


def test_a_pattern_is_a_sparsity_of_its_own() -> None:
    message = by_block(pattern="2:5", sparsity_ratio="", comparison_group="row")
    assert checked_plan(with_rounds(message)).pruning.sparsity.target == Pattern(2, 5)
    message.roster[0].sparsity_ratio = "0.5"
    with pytest.raises(PlanError, match="pattern: leaves no choice"):
        checked_plan(message)


@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "ria", "sparsegpt", "admm", "alps", "swaps"])
@pytest.mark.parametrize("group", ["layer", "row", "column"])
def test_groups_that_ruin_are_refused_with_the_reason_unless_forced(pruner: str, group: str) -> None:
    own = "row" if pruner in ("wanda", "swaps") else "layer"
    ruinous = group == "column" or (own, group) == ("layer", "row")
    message = with_rounds(by_block(pruner=pruner, comparison_group=group))
    for forced in (False, True):
        message.pruning.force_comparison_group = forced
        if forced is ruinous:
            checked_plan(message)
        else:
            problem = f"{group} does not suit {pruner}: .*2505.13547" if ruinous else "needs no force"
            with pytest.raises(PlanError, match=f"^plan: comparison group: {problem}"):
                checked_plan(message)


def test_a_silo_may_have_a_ratio_of_its_own_in_the_one_spelling() -> None:
    message = with_rounds(by_block())
    message.roster[1].sparsity_ratio = "0.25"
    agreed = checked_plan(message)
    assert [agreed.pruning.silo_sparsity(silo).target for silo in agreed.silos] == [
        Decimal(x) for x in ("0.5", "0.25", "0.5", "0.5")
    ]
    assert {agreed.pruning.silo_sparsity(silo).group for silo in agreed.silos} == {ComparisonGroup.ROW}
    message.roster[1].sparsity_ratio = "0.250"
    with pytest.raises(PlanError, match=r"^plan: sparsity ratio: '0.250' must be written '0.25'"):
        checked_plan(message)


def test_blocks_are_counted_without_a_gap() -> None:
    message = plan_message(4)
    message.model[1].block = 2
    with pytest.raises(PlanError, match=r"^plan: model: has a block without a prunable tensor"):
        checked_plan(message)
    message.model[1].prunable = False
    with pytest.raises(PlanError, match=r"^plan: model blocks.1.weight: is not prunable, yet has a block"):
        checked_plan(message)
    message.model[1].prunable, message.model[1].block = True, 1 << 30
    with pytest.raises(PlanError, match=r"^plan: model: has 1073741825 blocks"):
        checked_plan(message)


# Layer sampling.


@pytest.mark.parametrize(
    ("capacities", "problem"),
    [
        ((2, 2, 1, 0), "must be 1 to 2 blocks"),
        ((3, 2, 1, 1), "must be 1 to 2 blocks"),
        ((2, 1, 1, 1), "5 blocks in all, and 2 blocks times a cohort_floor of 3 are needed"),
    ],
)
def test_capacities_must_cover_every_block(capacities: tuple[int, ...], problem: str) -> None:
    with pytest.raises(PlanError, match=f"^plan: capacity: {problem}"):
        checked_plan(sampled(capacities=capacities))


def test_a_capacity_without_layer_sampling_is_refused() -> None:
    message = with_rounds(by_block())
    message.roster[0].capacity = 1
    with pytest.raises(PlanError, match=r"^plan: capacity: is for layer sampling"):
        checked_plan(message)


@pytest.mark.clause("2.2.2")
def test_a_round_digest_covers_the_cohort() -> None:
    agreed = checked_plan(sampled())
    a, b, c, d = agreed.silos
    digests = {agreed.round_digest(1, bytes(32), cohort) for cohort in ((), (a, b, c), (a, b, d), (b, c, d))}
    assert len(digests) == 4
    by_hand = sha256(b"sparsilo/1 round" + agreed.digest + b"\1\0\0\0" + bytes(32) + b"\1\1\0\1").digest()
    assert agreed.round_digest(1, bytes(32), (a, b, d)) == by_hand


def test_a_round_has_a_cohort_where_layer_sampling_drew_one_and_nowhere_else() -> None:
    agreed = checked_plan(sampled())
    a, b, c, d = agreed.silos
    check_cohort(agreed, 0, ())
    check_cohort(agreed, 1, (a, c, d))
    for index, cohort in ((0, (a, b, c)), (1, ()), (1, (a, b)), (1, (b, a, c)), (1, (a, b, "z")), (1, (a, a, b))):
        with pytest.raises(PlanError, match=rf"^plan: rounds\[{index}\]"):
            check_cohort(agreed, index, cohort)


@pytest.mark.clause("2.6.3")
@pytest.mark.parametrize("colluders", [0, 1, 2])
@pytest.mark.parametrize("two", [False, True])
def test_a_cohorts_threshold_is_its_own_majority(colluders: int, two: bool) -> None:
    message = plan_message(9, colluders=colluders)
    message.two_honest_survivors = two
    message.pruning.cohort_floor = colluders + (2 if two else 3)
    for member in message.roster:
        member.capacity = 1
    agreed = checked_plan(with_rounds(message))
    for silos in range(message.pruning.cohort_floor, 10):
        round_ = Round(agreed, 1, bytes(32), agreed.silos[:silos])
        least = next(t for t in range(99) if 2 * t > silos + colluders and t - colluders >= (2 if two else 3))
        assert (round_.threshold, round_.least_survivors) == (least, least)
        assert least <= silos
        assert round_.silos == agreed.silos[:silos]
        assert {section.width for section in round_.layout.sections} == {bits_for(silos), bits_for(silos * 60)}
    whole = Round(agreed, 0)
    assert (whole.threshold, whole.least_survivors) == (message.threshold, message.least_survivors)


# Layouts of the kinds that came later.


@pytest.mark.clause("2.4.7")
@pytest.mark.parametrize("silos", [3, 4, 16])
def test_a_weights_layout(silos: int) -> None:
    message = plan_message(silos, tensors=1)
    message.pruning.pruner = "sparsegpt"
    layout = layout_of(checked_plan(with_rounds(message, ReleaseKind.WEIGHTS)), 1)
    assert [(section.name, section.lanes, section.width) for section in layout.sections] == [
        ("votes blocks.0.weight", 60, bits_for(silos)),
        ("nonzero counts blocks.0.weight", 1, bits_for(silos * 60)),
        ("deltas blocks.0.weight", 60, bits_for(silos * 2**17)),
    ]
    scales = layout_of(checked_plan(message), 0)
    assert [(section.name, section.lanes, section.width) for section in scales.sections] == [
        ("scale blocks.0.weight", 128, bits_for(silos))
    ]


def test_the_small_layouts() -> None:
    message = sampled(allocation="owl")
    message.model[1].shape[:] = (6, 20)
    agreed = checked_plan(message)
    sections = [
        (section.name, section.lanes, section.width) for i in (0, 1) for section in layout_of(agreed, i).sections
    ]
    assert sections == [("coin", 4, 64), ("outliers", 2, bits_for(4 * 120))]


@pytest.mark.parametrize("group", ["layer", "row", "column"])
def test_a_tensor_that_is_stored_input_first_has_its_groups_turned(group: str) -> None:
    message = plan_message(4, tensors=1, group=group)
    message.pruning.force_comparison_group = group == "column"
    message.model[0].input_first = True
    votes, nonzero = layout_of(checked_plan(message), 0).sections
    assert votes.lanes == 60
    assert (nonzero.lanes, nonzero.width) == {
        "layer": (1, bits_for(240)), "row": (10, bits_for(24)), "column": (6, bits_for(40))
    }[group]  # fmt: skip
