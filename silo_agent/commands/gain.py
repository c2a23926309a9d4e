"""`silo-agent gain`: what own text is worth for pruning, found out without any network and before any release."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crypto.errors import ConfigError
from crypto.names import Pruner
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity, parse_ratio
from silo_agent.host.terminal import (
    FILE,
    ProgressBars,
    failing_as,
    output_option,
    pattern_option,
    print_envelope,
    print_fields,
    pruner_option,
    ratio_option,
)
from silo_agent.model.paired_difference import FEWEST_SEQUENCES

if TYPE_CHECKING:  # --help need not wait for torch
    from silo_agent.pruning.own_text_gain import OwnTextGain


@click.command()
@click.option("--model", required=True, help="Folder of the dense model, or its hub id, owner/name@commit.")
@click.option("--calibration", required=True, type=FILE, help="This silo's text, .txt or .jsonl.")
@pruner_option(default=Pruner.ADMM)
@ratio_option
@pattern_option
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Calibration sequences.")
@click.option(
    "--sequence-length", type=click.IntRange(2), help="Tokens a sequence.  [default: 2048 or the model's most]"
)
@click.option(
    "--held-out",
    type=click.IntRange(FEWEST_SEQUENCES),
    default=32,
    show_default=True,
    help="Sequences after those, on which the models are compared.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@output_option
def gain(
    model: str,
    calibration: Path,
    pruner: str,
    sparsity_ratio: str | None,
    pattern: str | None,
    samples: int,
    sequence_length: int | None,
    held_out: int,
    device: str,
    output: str,
) -> None:
    """Say what your own text is worth for pruning, before you release anything.

    Prunes on text that the model writes itself, which shares nothing, and on your text alone, and compares the two on
    text of yours that neither saw. Nothing leaves this machine; a hub id is the only reason to use the network.

    What follows ± is half of the paired t interval over the held-out sequences, at 95%. Text of a hospital may be more
    alike than that supposes: take a difference that only just shows for none.

    \b
    Example:
      silo-agent gain --model llama --calibration notes.jsonl --sparsity-ratio 0.6
    """
    with failing_as(output):
        if pattern is not None and sparsity_ratio is not None:
            raise ConfigError("--pattern says how many weights are kept", hint="leave out one of the two")
        facts = PRUNERS[Pruner(pruner)]
        if not facts.reads_text:
            raise ConfigError(f"{pruner} reads no text, so none is worth anything to it", hint="name another --pruner")
        target = parse_ratio(sparsity_ratio or "0.5") if pattern is None else Pattern.parse(pattern)
        sparsity = Sparsity(target, facts.own_group)
        found = _found(model, calibration, Pruner(pruner), sparsity, samples, sequence_length, held_out, device)
    _show(found, output)


def _found(
    model: str,
    calibration: Path,
    pruner: Pruner,
    sparsity: Sparsity,
    samples: int,
    sequence_length: int | None,
    held_out: int,
    device: str,
) -> "OwnTextGain":
    """Read the text, have the model write as much, and compare what pruning makes of each."""
    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.checkpoint.model_folder import model_folder
    from silo_agent.model.calibration import read_sequences, usual_length
    from silo_agent.model.device import named_device
    from silo_agent.pruning.own_text_gain import own_text_gain
    from silo_agent.writing.self_text import WRITING, self_sequences

    where, weights = named_device(device), DenseWeights.open(model_folder(model))
    length = usual_length(weights.config, sequence_length)
    own, held = read_sequences(
        calibration, weights.tokenizer, samples=samples, sequence_length=length, held_out=held_out
    )
    with ProgressBars() as progress:
        written = self_sequences(
            weights,
            samples=samples,
            sequence_length=length,
            device=where,
            progress=partial(progress, WRITING),
        )
        return own_text_gain(
            *(weights, written, own, held), pruner=pruner, sparsity=sparsity, device=where, progress=progress
        )


def _show(found: "OwnTextGain", output: str) -> None:
    perplexities = {"dense": found.dense, "self_calibrated": found.self_calibrated, "own": found.own}
    difference = found.difference
    if output == "json":
        compared = {
            "difference": difference.mean,
            "standard_error": difference.standard_error,
            "margin": difference.margin,
            "verdict": difference.verdict,
        }
        data = {"sequences": difference.sequences, "perplexity": perplexities, "own_text": compared}
        print_envelope("done", data={**data, "in_words": found.in_words})
        return
    print_fields({f"perplexity, {name.replace('_', '-')}": f"{value:.2f}" for name, value in perplexities.items()})
    print_fields({"own less self-calibrated": f"{difference.mean:+.4f} ± {difference.margin:.4f} nats a token"})
    click.echo(found.in_words)
