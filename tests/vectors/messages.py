"""Cases of sections 1 and 2: canonical encodings, and plans."""

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from crypto.encoding.wire import encode
from crypto.names import Suite
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from crypto.secagg.messages import MAX_MESSAGE_BYTES
from sparsilo.v1 import plan_pb2, round_pb2, words_pb2
from vectors.case import SILOS, Cases, Fields, case, entropy, signing_key

ROUND = entropy("round", 32)


def wire() -> Cases:
    def seed(label: str) -> bytes:
        return entropy(label, 32)

    coin = round_pb2.Coin(coin=seed("coin"))
    roots = [round_pb2.SignedRoot(silo=silo, root=seed(f"root {silo}"), signature=entropy(silo, 64)) for silo in SILOS]
    opening = round_pb2.Opening(
        sum_root=seed("sum root"),
        self_seeds=[round_pb2.Seed(silo=silo, seed=seed(f"seed {silo}")) for silo in SILOS[:2]],
        pair_seeds=[round_pb2.PairSeed(dropped="cedar", survivor="alder", seed=seed("pair"))],
    )
    revealed = round_pb2.RevealedShares(
        self_seeds=[round_pb2.RevealedShare(silo="alder", share=bytes(66))],
        bundle_keys=[round_pb2.RevealedShare(silo="cedar", share=b"\x01" * 66)],
    )
    aborted = round_pb2.Aborted(phase="upload", reason="drei Häuser fehlen")
    tensor = plan_pb2.Tensor(name="w", digest=seed("tensor"), shape=[1, 128, 2**64 - 1], prunable=True)
    word_chunk = words_pb2.WordChunk(round=ROUND, index=300, words=bytes(8))
    good: dict[str, tuple[str, Message]] = {
        "silo-message": ("A coin in its envelope.", round_pb2.SiloMessage(round=ROUND, coin=coin)),
        "aggregator-message": ("Text is UTF-8.", round_pb2.AggregatorMessage(round=ROUND, aborted=aborted)),
        "survivors": ("Repeated messages, in the order given.", round_pb2.Survivors(roots=roots[:2])),
        "opening": ("Fields 1, 2 and 3.", opening),
        "revealed-shares": ("Two repeated fields, and a share of zeros: content may be zero.", revealed),
        "word-chunk": ("A number of two bytes.", word_chunk),
        "word-chunk-0": ("The number 0 is a default and left out.", words_pb2.WordChunk(round=ROUND, words=bytes(8))),
        "committed-chunk": (
            "The opened words have no silo; the path is repeated bytes.",
            words_pb2.CommittedChunk(words=bytes(8), path=[seed("a"), seed("b")]),
        ),
        "tensor": ("Repeated numbers are packed.", tensor),
        "votes": ("An empty message in a oneof is there.", plan_pb2.Round(votes=plan_pb2.Votes())),
        "default-in-oneof": ("A default in a oneof is there.", plan_pb2.Candidate(name="x", dense=False)),
        "empty": ("A message of defaults has no bytes.", round_pb2.Participants()),
    }
    for name, (what, message) in good.items():
        yield case(name, what, "1.3", message=message.DESCRIPTOR.name, bytes=encode(message), expected=listed(message))
    data, chunk = encode(coin), encode(word_chunk)
    one, two = (encode(round_pb2.Survivors(roots=[root])) for root in roots[:2])
    envelope = b"\x0a\x20" + ROUND
    number = b"\x10\xac\x02"  # field 2 is 300
    bad: dict[str, tuple[str, str, bytes]] = {
        "long-key": ("A field's key spelled with two bytes.", "Coin", b"\x8a\x00" + data[1:]),
        "long-length": ("A length spelled with two bytes.", "Coin", b"\x0a\xa0\x00" + data[2:]),
        "long-number": ("A number with a byte too many.", "WordChunk", chunk.replace(number, b"\x10\xac\x82\x00")),
        "unknown-field": ("A field that the message does not have.", "Coin", data + b"\x12\x01\x00"),
        "unknown-field-inside": (
            "A field that the inner message does not have.",
            "Survivors",
            b"\x0a" + bytes([one[1] + 2]) + one[2:] + b"\x20\x01",
        ),
        "field-order": ("Field 2 before field 1.", "WordChunk", number + chunk.replace(number, b"")),
        "field-twice": ("A field twice.", "Coin", data + data),
        "default-number": ("The number 0 in so many words.", "WordChunk", chunk.replace(number, b"\x10\x00")),
        "default-bytes": ("Empty bytes in so many words.", "Coin", b"\x0a\x00"),
        "default-packed": ("No numbers, packed, in so many words.", "Tensor", b"\x0a\x01w\x1a\x00"),
        "unpacked": ("Repeated numbers that are not packed.", "Tensor", b"\x0a\x01w\x18\x02\x18\x03"),
        "packed-twice": ("Repeated numbers packed in two parts.", "Tensor", b"\x0a\x01w\x1a\x01\x02\x1a\x01\x03"),
        "two-bodies": ("Two members of a oneof.", "SiloMessage", envelope + b"\x4a\x22" + data + b"\x52\x00"),
        "body-twice": ("A message in two parts.", "SiloMessage", envelope + b"\x4a\x00\x4a\x22" + data),
        "truncated": ("The last byte is missing.", "Coin", data[:-1]),
        "length-beyond": (
            "A length reaches beyond the end.",
            "Survivors",
            one + b"\x0a" + bytes([two[1] + 1]) + two[2:],
        ),
        "wire-type": ("A number where bytes belong.", "Coin", b"\x08\x01"),
        "group": ("A group, which proto3 does not have.", "Coin", data + b"\x13\x14"),
        "field-0": ("Field number 0.", "Coin", data + b"\x02\x00"),
        "not-utf-8": ("Text that is not UTF-8.", "Aborted", b"\x0a\x02\xc3\x28"),
        "beyond-32-bits": ("A number of 33 bits in a field of 32.", "WordChunk", b"\x10\x80\x80\x80\x80\x10"),
        "bool-2": ("A bool of 2.", "Candidate", b"\x0a\x01x\x10\x02"),
    }
    for name, (what, message_name, spelled) in bad.items():
        yield case(name, what, "1.3", message=message_name, bytes=spelled, error="malformed_message")
    for name, size in (("longest", MAX_MESSAGE_BYTES), ("too-long", MAX_MESSAGE_BYTES + 1)):
        inner_key, phase = b"\x42", b"\x0a\x04plan"
        letters = size - len(envelope + inner_key + phase + b"\x12") - 4 - 4  # both lengths have four bytes
        inner = phase + b"\x12" + varint(letters)
        reason = {"repeat": b"a", "times": letters}
        spelling = [envelope + inner_key + varint(len(inner) + letters) + inner, reason]
        fields = [[1, "bytes", ROUND], [8, "message", [[1, "text", "plan"], [2, "text", [reason]]]]]
        result: Fields = {"expected": fields} if size == MAX_MESSAGE_BYTES else {"error": "malformed_message"}
        what = f"A control message of {size} bytes."
        yield case(name, what, "1.4", message="AggregatorMessage", bytes=spelling, **result)


def varint(value: int) -> bytes:
    digits = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])


def listed(message: Message) -> list[Any]:
    """Fields in order as [number, kind, value]; a repeated message or bytes field has one entry an element."""
    found: list[Any] = []
    for spec, value in message.ListFields():
        if spec.message_type is not None:
            found += [[spec.number, "message", listed(item)] for item in (value if spec.is_repeated else [value])]
        elif spec.is_repeated:
            numbers = spec.type != spec.TYPE_BYTES
            found += [[spec.number, "numbers", list(value)]] if numbers else [[spec.number, "bytes", b] for b in value]
        elif isinstance(value, bytes):
            found.append([spec.number, "bytes", value])
        else:
            text = isinstance(value, str)
            found.append([spec.number, "text" if text else "number", value if text else int(value)])
    return found


def plan_message(silos: Sequence[str] = SILOS, suite: Suite = Suite.DEFAULT, **fields: Any) -> plan_pb2.Plan:
    """A valid plan: a matrix of 12 x 20, one of 5 x 7, a vector that is not pruned; a round of each release kind."""
    shapes = {"blocks.0.norm": [20], "blocks.0.up": [12, 20], "blocks.1.up": [5, 7]}
    candidates = [
        plan_pb2.Candidate(name="dense", dense=True),
        plan_pb2.Candidate(name="pruned", digest=entropy("keep mask", 32)),
    ]
    plan = plan_pb2.Plan(
        protocol="sparsilo/1",
        run=bytes(range(16)),
        suite=suite,
        backend="double_masking",
        roster=[plan_pb2.Member(silo=silo, signing_key=signing_key(suite, silo).public_bytes) for silo in silos],
        threshold=len(silos) // 2 + 1,
        least_survivors=len(silos) // 2 + 1,
        model=[
            plan_pb2.Tensor(name=name, digest=entropy(f"tensor {name}", 32), shape=shape, prunable=len(shape) == 2)
            for name, shape in shapes.items()
        ],
        pruning=plan_pb2.Pruning(
            pruner="wanda", sparsity_ratio="0.7", comparison_group="row", samples=8, sequence_length=64
        ),
        rounds=[
            plan_pb2.Round(votes=plan_pb2.Votes()),
            plan_pb2.Round(evaluation=plan_pb2.Evaluation(sequences=2, candidates=candidates)),
        ],
        chunk_words=4,
        phase_seconds=60,
        preparation_seconds=3600,
    )
    set_all(plan, fields)
    return plan


def set_all(message: Message, fields: Fields) -> None:
    for name, value in fields.items():
        setattr(message, name, value)


def plan() -> Cases:
    layers = plan_message()
    layers.pruning.comparison_group = "layer"
    candidates = plan_message()
    for name, label in (("z", "a"), ("y", "b"), ("x", "a")):
        candidates.rounds[1].evaluation.candidates.add(name=name, digest=entropy(label, 32))
    many = [f"silo-{index:03d}" for index in range(20)]
    good: dict[str, tuple[str, plan_pb2.Plan]] = {
        "row": ("Groups are rows.", plan_message()),
        "layer": ("Groups are matrices.", layers),
        "candidates": ("Candidates out of order, two with one digest.", candidates),
        "fips": ("The other suite.", plan_message(suite=Suite.FIPS)),
        "fewest": (
            "Three silos, and sums over two.",
            plan_message(SILOS[:3], threshold=2, least_survivors=2, two_honest_survivors=True),
        ),
        "colluders": (
            "Twenty silos, six of them colluders; an odd chunk size.",
            plan_message(many, colluders=6, threshold=14, least_survivors=15, chunk_words=5),
        ),
    }
    for name, (what, message) in good.items():
        right = checked_plan(message)
        clauses = ("2.2.1", "2.2.2", "2.4.3", "2.4.4", "2.4.6")
        yield case(name, what, *clauses, bytes=right.encoded, expected=summary(right))
    for clause, named in broken_plans().items():
        for name, (what, message) in named.items():
            yield case(name, what, "2.1.1", clause, bytes=encode(message), error="plan")
    unknown = encode(plan_message()) + b"\xa0\x06\x01"
    yield case("unknown-field", "A field 100.", "1.3", bytes=unknown, error="malformed_message")


def summary(plan: Plan) -> Fields:
    def of(index: int) -> Fields:
        layout = layout_of(plan, index)
        return {
            "digest": plan.round_digest(index, b""),
            "sections": [{"name": s.name, "lanes": s.lanes, "width": s.width} for s in layout.sections],
            "words_of_chunks": [chunk.words for chunk in layout.chunks],
        }

    return {"digest": plan.digest, "rounds": [of(index) for index in range(len(plan.message.rounds))]}


def broken_plans() -> dict[str, dict[str, tuple[str, plan_pb2.Plan]]]:
    """By clause, plans that break one rule."""

    def but(change: Callable[[plan_pb2.Plan], object]) -> plan_pb2.Plan:
        message = plan_message()
        change(message)
        return message

    def top(**fields: Any) -> plan_pb2.Plan:
        return but(lambda plan: set_all(plan, fields))

    def first_silo(**fields: Any) -> plan_pb2.Plan:
        return but(lambda plan: set_all(plan.roster[0], fields))

    def vector(**fields: Any) -> plan_pb2.Plan:
        return but(lambda plan: set_all(plan.model[0], fields))

    def shape(*shape: int) -> plan_pb2.Plan:
        def change(plan: plan_pb2.Plan) -> None:
            plan.model[1].shape[:] = shape

        return but(change)

    def pruning(**fields: Any) -> plan_pb2.Plan:
        return but(lambda plan: set_all(plan.pruning, fields))

    def candidate(at: int, **fields: Any) -> plan_pb2.Plan:
        return but(lambda plan: set_all(plan.rounds[1].evaluation.candidates[at], fields))

    def order(field: str, *places: int) -> plan_pb2.Plan:
        copies, message = getattr(plan_message(), field), plan_message()
        message.ClearField(field)  # type: ignore[arg-type]
        getattr(message, field).extend(copies[at] for at in places)
        return message

    two = {"threshold": 2, "least_survivors": 2, "two_honest_survivors": True}
    lonely = {"colluders": 2, "threshold": 3, "least_survivors": 3, "two_honest_survivors": True}
    cedar, other = signing_key(Suite.DEFAULT, "cedar").public_bytes, signing_key(Suite.FIPS, "alder").public_bytes
    elm = signing_key(Suite.DEFAULT, "elm").public_bytes
    twice = but(lambda plan: plan.roster.insert(1, plan_pb2.Member(silo="alder", signing_key=elm)))
    vectors_only = but(lambda plan: [set_all(tensor, {"prunable": False}) for tensor in plan.model])
    votes_257 = but(lambda plan: [plan.rounds.add().votes.SetInParent() for _ in range(255)])
    no_candidates = but(lambda plan: plan.rounds[1].evaluation.ClearField("candidates"))
    no_keep_mask = but(lambda plan: plan.rounds[1].evaluation.candidates[0].ClearField("keep_mask"))
    return {
        "2.1.2": {
            "protocol": ("Another protocol version.", top(protocol="sparsilo/2")),
            "run-short": ("The run has 15 bytes.", top(run=bytes(15))),
            "suite": ("An unknown suite.", top(suite="mlkem768-x25519")),
            "backend": ("An unknown backend.", top(backend="plaintext")),
        },
        "2.1.3": {
            "two-silos": ("Two silos.", plan_message(SILOS[:2], **two)),
            "201-silos": ("More than 200 silos.", plan_message([f"s{index:03d}" for index in range(201)])),
            "roster-order": ("The roster does not ascend.", order("roster", 0, 2, 1, 3)),
            "roster-twice": ("A silo twice in the roster, with two keys.", twice),
            "name-empty": ("A silo without a name.", first_silo(silo="")),
            "name-capital": ("A capital letter in a name.", first_silo(silo="Alder")),
            "name-underscore": ("A name with another character.", first_silo(silo="al_der")),
            "name-hyphen-first": ("A name begins with a hyphen.", first_silo(silo="-alder")),
            "name-hyphen-last": ("A name ends with a hyphen.", first_silo(silo="alder-")),
            "name-64": ("A name of 64 characters.", first_silo(silo="a" * 64)),
            "key-short": ("A signing key of 31 bytes.", first_silo(signing_key=cedar[:31])),
            "key-other-suite": ("A signing key of the other suite.", first_silo(signing_key=other)),
            "keys-equal": ("Two silos with one key.", first_silo(signing_key=cedar)),
        },
        "2.1.4": {
            "threshold-low": ("2t is n.", top(threshold=2)),
            "threshold-colluders": (
                "2t is n + c.",
                top(**two | {"colluders": 2, "threshold": 3, "least_survivors": 4}),
            ),
            "survivors-below-threshold": ("m is less than t.", top(threshold=4, least_survivors=3)),
            "survivors-high": ("m is more than n.", top(least_survivors=5)),
            "two-honest": ("t - c is 2 and the plan does not say so.", top(colluders=1, least_survivors=3)),
            "one-honest": ("t - c is 1.", plan_message(SILOS[:3], **lonely)),
        },
        "2.1.5": {
            "model-order": ("Tensors do not ascend.", order("model", 1, 0, 2)),
            "model-twice": ("A tensor twice.", order("model", 0, 1, 1, 2)),
            "tensor-digest": ("A tensor's digest has 31 bytes.", vector(digest=bytes(31))),
            "nothing-prunable": ("No tensor is prunable.", vectors_only),
            "prunable-vector": ("A prunable tensor has one dimension.", vector(prunable=True)),
            "prunable-cube": ("A prunable tensor has three dimensions.", shape(12, 20, 2)),
            "prunable-empty": ("A prunable tensor has a dimension of 0.", shape(12, 0)),
        },
        "2.1.6": {
            "pruner": ("An unknown pruner.", pruning(pruner="magnitude")),
            "ratio-one": ("The sparsity ratio is 1.", pruning(sparsity_ratio="1")),
            "ratio-negative": ("The sparsity ratio is negative.", pruning(sparsity_ratio="-0.1")),
            "ratio-long-form": ("The sparsity ratio is not in its shortest form.", pruning(sparsity_ratio="0.70")),
            "ratio-exponent": ("The sparsity ratio has an exponent.", pruning(sparsity_ratio="7e-1")),
            "ratio-no-zero": ("The sparsity ratio lacks its first digit.", pruning(sparsity_ratio=".7")),
            "ratio-28-decimals": ("28 decimals.", pruning(sparsity_ratio="0." + "1" * 28)),
            "ratio-word": ("The sparsity ratio is not a number.", pruning(sparsity_ratio="half")),
            "ratio-nan": ("The sparsity ratio is NaN.", pruning(sparsity_ratio="NaN")),
            "group-column": ("The comparison group is a column.", pruning(comparison_group="column")),
            "group": ("An unknown comparison group.", pruning(comparison_group="matrix")),
            "samples": ("No samples.", pruning(samples=0)),
            "sequence-length": ("Sequences of one token.", pruning(sequence_length=1)),
        },
        "2.1.7": {
            "rounds-none": ("No rounds.", but(lambda plan: plan.ClearField("rounds"))),
            "rounds-257": ("257 rounds.", votes_257),
            "round-without-release": ("A round has no release.", but(lambda plan: plan.rounds.add())),
            "chunk-words-0": ("A chunk has no words.", top(chunk_words=0)),
            "chunk-words-262145": ("A chunk has more than 262 144 words.", top(chunk_words=262_145)),
            "chunks-too-many": ("A round has more than 1 048 576 chunks.", shape(8192, 11_000)),
            "phase-seconds": ("No time for a phase.", top(phase_seconds=0)),
            "preparation-seconds": ("No time for the preparation.", top(preparation_seconds=0)),
            "sequences": ("No held-out text.", but(lambda plan: set_all(plan.rounds[1].evaluation, {"sequences": 0}))),
            "candidates-none": ("An evaluation without candidates.", no_candidates),
            "candidates-equal": ("Two candidates of one name.", candidate(0, name="pruned")),
            "candidate-digest": ("A candidate's digest has 31 bytes.", candidate(1, digest=bytes(31))),
            "candidate-nothing": ("A candidate is neither dense nor has a digest.", no_keep_mask),
            "candidate-not-dense": ("A candidate says that it is not dense.", candidate(0, dense=False)),
        },
    }
