"""What masking costs a silo, side by side in one run: Sparsilo, the bare primitives under it, and Flower's SecAgg+.

Run `make bench-masking`. Prints one JSON document; exits with 1 when a claim in it is not met. All times are CPU
seconds of this process, medians of interleaved repetitions, but for `wall_seconds`.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from importlib import import_module
from importlib.metadata import version
from statistics import median
from time import perf_counter, process_time

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import Key

from bench.document import at_least, at_most, progress, publish
from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Chunk, Layout, Section, open_chunk, pack_chunk
from crypto.encoding.wire import encode
from crypto.primitives.mask_stream import add_masks
from crypto.primitives.merkle import leaf
from silo_agent.host.freed_memory import keep_freed_memory
from sparsilo.v1 import words_pb2

SILOS = 10  # so a silo adds one self mask and nine pairwise masks
WEIGHTS = 1 << 24
CHUNK_WORDS = 1 << 17
REPETITIONS, FLOWER_EVERY = 35, 5  # Flower takes seconds where the others take hundredths
BARE_WORDS = 1 << 14  # 128 KiB of keystream at once, the fastest size of 32 KiB to 1 MiB where this was written

LAYOUT = Layout((Section("keep mask", WEIGHTS, lane_width(SILOS)),), CHUNK_WORDS)
KEEP = np.random.default_rng(1).random(WEIGHTS) < 0.5
MASKS = [(bytes([peer]) * 32, 1 if peer % 2 == 0 else -1) for peer in range(SILOS)]
CONTEXT = bytes(32)

flower = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # its package names a function the same

cpu: dict[str, list[float]] = defaultdict(list)
wall: dict[str, list[float]] = defaultdict(list)


def pack(chunk: Chunk) -> np.ndarray:
    return pack_chunk(chunk, KEEP[chunk.start : chunk.start + chunk.lanes])


def mask(chunk: Chunk) -> np.ndarray:
    words = pack(chunk)
    add_masks(words, MASKS, CONTEXT, chunk.index)
    return words


def check_sparsilo() -> None:
    """What is measured opens to the keep mask once its masks are taken off."""
    for chunk in LAYOUT.chunks:
        words = mask(chunk)
        add_masks(words, [(seed, -sign) for seed, sign in MASKS], CONTEXT, chunk.index)
        assert (open_chunk(chunk, words, 1) == KEEP[chunk.start : chunk.start + chunk.lanes]).all()  # noqa: S101


def measure_sparsilo() -> None:
    packing = hashing = 0.0
    begin = process_time()
    for chunk in LAYOUT.chunks:
        start = process_time()
        words = pack(chunk)
        packing += process_time() - start
        add_masks(words, MASKS, CONTEXT, chunk.index)
    cpu["sparsilo"].append(process_time() - begin)
    cpu["sparsilo_packing_part"].append(packing)
    for _ in LAYOUT.chunks:
        start = process_time()
        leaf(words.data)
        hashing += process_time() - start
    cpu["merkle_leaf_not_in_sparsilo"].append(hashing)


def measure_threads(pool: ThreadPoolExecutor) -> None:
    """Apart from the rest: on shared cores a second busy thread slows down what runs after it."""
    begin = perf_counter()
    for chunk in LAYOUT.chunks:
        mask(chunk)
    wall["one_thread"].append(perf_counter() - begin)
    begin = perf_counter()
    for _ in pool.map(mask, LAYOUT.chunks):
        pass
    wall["two_threads"].append(perf_counter() - begin)


def bare() -> Callable[[], None]:
    """As many keystreams added to as many words, and nothing else: AES and an addition have to happen."""
    words, keystream = np.zeros(LAYOUT.total_words, np.uint64), np.empty(BARE_WORDS, np.uint64)
    zeros, target = memoryview(bytes(keystream.nbytes)), memoryview(keystream).cast("B")
    streams = [Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor() for _ in MASKS]

    def measure() -> None:
        begin = process_time()
        for start in range(0, len(words), BARE_WORDS):
            part = words[start : start + BARE_WORDS]
            fresh, from_zeros, to_fresh = keystream[: len(part)], zeros[: part.nbytes], target[: part.nbytes]
            for stream in streams:
                stream.update_into(from_zeros, to_fresh)
                np.add(part, fresh, out=part)
        cpu["bare"].append(process_time() - begin)

    return measure


FLOWER_PARTS = {
    "quantize": "flower_quantisation",
    "pseudo_rand_gen": "flower_masks",
    "parameters_addition": "flower_masks",
    "parameters_subtraction": "flower_masks",
    "parameters_mod": "flower_masks",
    "ndarray_to_bytes": "flower_serialisation",
}


def flower_client() -> Callable[[], float]:
    """Flower's own client brought to the stage that masks; the result measures that stage and returns bytes a weight.

    The keep mask is its vector, as float32. The settings are the defaults of Flower's SecAggPlusWorkflow.
    """
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., object]) -> Callable[..., object]:
        @wraps(function)
        def call(*arguments: object) -> object:
            start = process_time()
            result = function(*arguments)
            spent[part] += process_time() - start
            return result

        return call

    for name, part in FLOWER_PARTS.items():
        setattr(flower, name, timed(part, getattr(flower, name)))

    settings = {
        Key.SAMPLE_NUMBER: SILOS,
        Key.SHARE_NUMBER: SILOS,
        Key.THRESHOLD: SILOS // 2 + 1,
        Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 1 << 22,
        Key.MOD_RANGE: 1 << 32,
        Key.MAX_WEIGHT: 1000.0,
    }
    clients = [flower.SecAggPlusState(nid=number) for number in range(1, SILOS + 1)]
    keys = {str(client.nid): tuple(flower._setup(client, settings).values()) for client in clients}
    shares = {client.nid: flower._share_keys(client, keys) for client in clients}
    measured = clients[SILOS // 2]  # it adds some pairwise masks and subtracts others
    peers = [nid for nid in shares if nid != measured.nid]
    received = {
        Key.SOURCE_LIST: peers,
        Key.CIPHERTEXT_LIST: [
            shares[peer][Key.CIPHERTEXT_LIST][shares[peer][Key.DESTINATION_LIST].index(measured.nid)] for peer in peers
        ],
    }
    vector = ndarrays_to_parameters([KEEP.astype(np.float32)])

    def measure() -> float:
        spent.clear()
        begin = process_time()
        result = flower._collect_masked_vectors(measured, received, 100, vector)
        cpu["flower_whole_stage"].append(process_time() - begin)
        for part, seconds in spent.items():
            cpu[part].append(seconds)
        return sum(map(len, result[Key.MASKED_PARAMETERS])) / WEIGHTS

    return measure


def wire_bytes() -> float:
    """A weight's share of the encoded messages, without gRPC's frames (5 bytes a message and HTTP/2's)."""
    messages = (
        words_pb2.WordChunk(round=bytes(32), index=chunk.index, words=mask(chunk).astype("<u8").tobytes())
        for chunk in LAYOUT.chunks
    )
    return sum(len(encode(message)) for message in messages) / WEIGHTS


def main() -> None:
    keep_freed_memory()  # as either command does: fresh pages cost more or less by machine and by moment
    check_sparsilo()
    measure_bare = bare()
    measure_flower = flower_client()
    for repetition in range(REPETITIONS):
        progress("repetition", repetition + 1, "of", REPETITIONS)
        measure_sparsilo()
        measure_bare()
        if repetition % FLOWER_EVERY == 0:
            flower_wire_bytes = measure_flower()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(REPETITIONS):
            measure_threads(pool)
    seconds = {name: median(samples) for name, samples in cpu.items()}
    walls = {name: median(samples) for name, samples in wall.items()}
    sparsilo, flower_masks = seconds["sparsilo"], seconds["flower_masks"]
    claims = {
        "bare / sparsilo with packing": at_least(seconds["bare"] / sparsilo, 0.7),
        "flower with quantisation / sparsilo with packing": at_least(
            (flower_masks + seconds["flower_quantisation"]) / sparsilo, 50
        ),
        "wire bytes per weight, sparsilo": at_most(wire_bytes(), 0.51),
        "wire bytes per weight, flower": at_least(flower_wire_bytes, 8.0),
    }
    publish(
        claims,
        setting={
            "silos": SILOS,
            "masks": len(MASKS),
            "lane_width": LAYOUT.sections[0].width,
            "weights": WEIGHTS,
            "flower_weights": WEIGHTS,
            "words": LAYOUT.total_words,
            "repetitions": REPETITIONS,
            "flower_repetitions": len(cpu["flower_masks"]),
            "flwr": version("flwr"),
        },
        cpu_seconds=seconds,
        cpu_ns_per_weight={name: value / WEIGHTS * 1e9 for name, value in seconds.items()},
        wall_seconds=walls | {"speed_up": walls["one_thread"] / walls["two_threads"]},
        other_ratios={
            "flower without quantisation / sparsilo with packing": flower_masks / sparsilo,
            "flower without quantisation / sparsilo without packing": flower_masks
            / (sparsilo - seconds["sparsilo_packing_part"]),
            "flower whole stage / sparsilo with packing": seconds["flower_whole_stage"] / sparsilo,
        },
    )


if __name__ == "__main__":
    main()
