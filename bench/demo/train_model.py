"""Train the demo's small language model from scratch, on a CPU, on docstrings that are already installed.

The model is small enough to be pruned by four silos within the demo, but trained enough that pruning it badly shows:
an untrained model would lose nothing. Its only training text is Python docstrings, so that the four silos' domains
(see `bench.demo.harvest`) are new to it.

Run ``python -m bench.demo.train_model`` from the repository root.
"""

import argparse
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.demo.harvest import harvest_docstrings

SEED = 2024
VOCABULARY = 4096
CONTEXT = 512
SEQUENCE = 256
BATCH = 16
PEAK_RATE = 2e-3
WARM_UP = 100
BOS, EOS = "<s>", "</s>"
HELD_OUT_BATCHES = 40
MODEL_FOLDER = Path(__file__).parent / "model"


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE: it encodes any text, so a silo's new domain costs more tokens but loses nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make the untrained model."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=688,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Shuffle the documents and hold a fifth of them out."""
    shuffled = list(documents)
    random.Random(SEED).shuffle(shuffled)
    cut = len(shuffled) * 4 // 5
    return shuffled[:cut], shuffled[cut:]


def sequences(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Join the documents, each between its begin and end tokens, and cut the result into rows of `SEQUENCE` tokens."""
    ids: list[int] = []
    for encoded in tokenizer(documents, add_special_tokens=False)["input_ids"]:
        ids += [int(tokenizer.bos_token_id), *encoded, int(tokenizer.eos_token_id)]
    rows = len(ids) // SEQUENCE
    return torch.tensor(ids[: rows * SEQUENCE]).view(rows, SEQUENCE)


def batches(rows: Tensor) -> Iterator[Tensor]:
    """Yield batches for ever, in a new order in each epoch."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        yield from (rows[chosen] for chosen in torch.split(order, BATCH) if len(chosen) == BATCH)


def rate(step: int, steps: int) -> float:
    """Return the factor on the peak learning rate: a linear rise, then a linear fall to nought."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return max(0.0, (steps - step) / max(1, steps - WARM_UP))


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, rows: Tensor) -> float:
    """Measure the model on held-out rows, in the precision its weights have."""
    model.train(False)
    losses = [float(model(input_ids=batch, labels=batch).loss) for batch in torch.split(rows, BATCH)[:HELD_OUT_BATCHES]]
    model.train(True)
    return math.exp(sum(losses) / len(losses))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a bf16 copy beside `out`, then put it in its place, so that `out` never holds half a model."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.bfloat16().save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(partial, out)


def train(steps: int, out: Path, save_every: int) -> None:
    """Train for a number of steps and save the model with its tokenizer."""
    torch.manual_seed(SEED)
    learnt, held_out = split(harvest_docstrings())
    tokenizer = train_tokenizer(learnt)
    rows, test_rows = sequences(learnt, tokenizer), sequences(held_out, tokenizer)
    print(f"{len(learnt)} documents, {rows.numel()} tokens; held out {test_rows.numel()} tokens", flush=True)
    model = new_model(tokenizer)
    decayed = [weight for weight in model.parameters() if weight.dim() > 1]
    plain = [weight for weight in model.parameters() if weight.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    began = time.monotonic()
    for step, batch in zip(range(1, steps + 1), batches(rows), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f} after {time.monotonic() - began:.0f} s", flush=True)
        if save_every and step % save_every == 0 and step < steps:
            save(model, tokenizer, out.with_name(f"{out.name}-{step}"))
    save(model, tokenizer, out)
    print(f"held-out perplexity {perplexity(model, test_rows):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's language model.")
    parser.add_argument("--steps", type=int, default=1350)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--save-every", type=int, default=0, help="also save OUT-<step> every so many steps; 0: never")
    arguments = parser.parse_args()
    train(arguments.steps, arguments.out, arguments.save_every)


if __name__ == "__main__":
    main()
