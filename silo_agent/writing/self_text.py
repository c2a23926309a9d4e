"""Calibration text that the model writes itself, which needs nobody's data (self-calibration, arXiv 2410.17170).

Seeded and public: whoever has the model can write the same text. The same machine with as many threads writes the same
tokens; another may round the low bits of a probability differently, and from the first token for which that matters
its text is another, as likely a one.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import Tensor

from crypto.errors import ModelError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.writing.stored_cache import store
from silo_agent.writing.streamed_model import streamed_model

SEED: Final = 0
"""The seed of `--calibration self`."""

WRITING: Final = "writing calibration text"
"""What is being done, as whoever waits is told."""

TOKENS_AT_ONCE: Final = 1 << 14
"""Tokens whose keys and values are kept: half a MB each in Llama 2 7B, an eighth in Llama 3 8B."""


def self_sequences(
    weights: DenseWeights,
    *,
    samples: int,
    sequence_length: int,
    device: torch.device,
    progress: Callable[[int, int], None],
    seed: int = SEED,
) -> Tensor:
    """Return records sampled from the model at temperature 1, cut into sequences: int64 [samples, L], on the CPU.

    A record begins with the tokenizer's begin token, or with a random token where it has none. It ends with the
    end-of-text token, which is left out, or at L tokens. Records are joined and cut as those of a file are.
    Every token needs the whole model (`streamed_model`). Beside it are the keys and values of TOKENS_AT_ONCE; on the
    CPU they lie in files, where temporary files are.
    `progress` is called with (tokens written, tokens) each time a further hundredth is written.
    Raises ModelError: no usable tokenizer, NaN or infinity in the logits, or a kind of model that keeps no keys and
    values to go on from; OutputError where there is no room for these.
    """
    model = streamed_model(weights, device)
    generator = torch.Generator().manual_seed(seed)
    at_once = min(samples, max(1, TOKENS_AT_ONCE // sequence_length))
    text: list[int] = []
    wanted = samples * sequence_length
    told = -1
    while len(text) < wanted:
        draws = torch.rand(at_once, sequence_length, generator=generator, dtype=torch.float64)

        def written(fresh: int, before: int = len(text)) -> None:
            nonlocal told
            done = min(before + fresh, wanted)
            if 100 * done // wanted > told:
                told = 100 * done // wanted
                progress(done, wanted)

        with TemporaryDirectory(prefix="keys-and-values-") as folder:
            for record in _write_records(weights, model, draws, device, Path(folder), written):
                text += record
    return torch.tensor(text[:wanted]).view(samples, sequence_length)


@torch.no_grad()
def _write_records(
    weights: DenseWeights,
    model: Any,
    draws: Tensor,
    device: torch.device,
    folder: Path,
    progress: Callable[[int], None],
) -> list[list[int]]:
    """Return a record for each row of `draws`, float64 [records, L] in [0, 1): one draw decides one token."""
    starts, end = _start_tokens(weights), weights.tokenizer.eos_token_id
    tokens = starts[(draws[:, :1] * len(starts)).long()]
    ended = torch.zeros(len(draws), dtype=torch.bool)
    seen, written = None, len(draws)
    for step in range(1, draws.shape[1]):
        output = model(input_ids=tokens[:, -1:].to(device), past_key_values=seen, use_cache=True)
        seen = getattr(output, "past_key_values", None)
        if seen is None:
            raise ModelError(
                f"{weights.folder}: this kind of model cannot write text here: it keeps no keys and values",
                hint="give a file with --calibration; a run does without with --release votes",
            )
        if step == 1 and device.type == "cpu":
            store(seen, folder)
        logits = output.logits[:, -1].double().cpu()  # so that one generator draws, whatever the device
        if not logits.isfinite().all():
            raise ModelError(
                f"{weights.folder}: logits are not finite", hint="use a bfloat16 or float32 copy of the model"
            )
        reached = logits.softmax(-1).cumsum(-1)
        fresh = torch.searchsorted(reached, draws[:, step : step + 1] * reached[:, -1:], right=True)
        tokens = torch.cat([tokens, fresh], 1)
        ended |= fresh[:, 0] == end
        written += int((~ended).sum())
        progress(written)
        if ended.all():
            break
    return [[first, *(rest[: rest.index(end)] if end in rest else rest)] for first, *rest in tokens.tolist()]


def _start_tokens(weights: DenseWeights) -> Tensor:
    """Return the begin token, or else every token that is text: int64 [tokens]."""
    tokenizer = weights.tokenizer
    if tokenizer.bos_token_id is not None:
        return torch.tensor([tokenizer.bos_token_id])
    special = set(tokenizer.all_special_ids)
    return torch.tensor([token for token in range(len(tokenizer)) if token not in special])
