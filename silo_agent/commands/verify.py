"""`silo-agent verify`: check a round from its saved transcript, or a run and its model, offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from crypto.errors import ConfigError
from crypto.names import Suite
from silo_agent.host.terminal import (
    FILE,
    ProgressBars,
    failing_as,
    output_option,
    print_envelope,
    print_fields,
    suite_option,
)


@click.command()
@click.argument("folder", type=FILE, metavar="FOLDER")
@click.option("--roster", required=True, type=FILE, help="Your pinned roster: all that is proven rests on its keys.")
@suite_option
@click.option("--own", type=FILE, help="state/ROUND.transcript, which your agent wrote: must be the same round.")
@click.option("--signatures-only", is_flag=True, help="Leave the words alone, where they are not at hand.")
@click.option("--model", type=FILE, metavar="DIR", help="Also check that this sparse model follows from the sums.")
@click.option("--dense", metavar="DIR", help="With --model: your dense model, a folder or its hub id with commit.")
@output_option
def verify(
    folder: Path,
    roster: Path,
    suite: str,
    own: Path | None,
    signatures_only: bool,
    model: Path | None,
    dense: str | None,
    output: str,
) -> None:
    """Check a round after it is over, or a whole run and its model.

    Nobody who ran it need be trusted. Every signature is verified under your pinned roster, and the opened sum is
    computed anew from the masked words that the silos signed. No secret and no network is needed. FOLDER is a
    transcript, as `aggregator local --save-transcript` writes it, or a run's result, which holds one for each round; a
    roster.yaml in it is its maker's word, so compare it with yours. With --model every byte of the sparse model is
    compared with what the opened sums make of your dense model. What cannot be shown: that a silo's words said the
    truth about its text.

    \b
    Examples:
      silo-agent verify pruned/transcript --roster roster.yaml --own state/0a1b2c.transcript
      silo-agent verify pruned --roster roster.yaml --model pruned/model --dense llama
    """
    from silo_agent.identity.own_files import read_roster
    from silo_agent.opened_sums.verify import transcript_folders, verify_folder

    with failing_as(output), ProgressBars() as progress:
        if (model is None) != (dense is None):
            raise ConfigError("--model and --dense: give both or none", hint="a model follows from a dense one")
        pinned, folders = read_roster(roster, Suite[suite.upper()]), transcript_folders(folder)
        if own is not None and len(folders) > 1:
            raise ConfigError("--own: is of one round", hint="name that round's transcript folder")
        rounds = [verify_folder(transcript, pinned, own, not signatures_only, progress) for transcript in folders]
        checked = None if model is None or dense is None else _model(model, folders, pinned, dense, progress)
    if output == "json":
        data = rounds[0] if folders == [folder] else {"rounds": rounds}
        print_envelope("done", data=data if checked is None else {**data, "model": checked})
        return
    for verified in rounds:
        print_fields(_as_fields(verified, signatures_only))
    if checked is not None:
        print_fields({"model": "follows from these sums, byte for byte", **checked})


def _model(
    model: Path, folders: Sequence[Path], roster: Mapping[str, bytes], dense: str, progress: ProgressBars
) -> dict[str, Any]:
    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.checkpoint.model_folder import model_folder
    from silo_agent.results.verify_model import verify_model

    return verify_model(model, folders, roster, DenseWeights.open(model_folder(dense)), progress)


def _as_fields(verified: dict[str, Any], signatures_only: bool) -> dict[str, str]:
    """Return what `verify_folder` verified as the table has it."""
    recomputed = f"{verified['recomputed']} of {verified['chunks']}, from the words that the survivors signed"
    if signatures_only:
        recomputed = "none: --signatures-only; that the sum is right is the auditors' word"
    return {
        **{name: verified[name] for name in ("round", "plan", "release")},
        "starts from": verified["input"] or "the dense model",
        "cohort": ", ".join(verified["cohort"]) or "the whole roster",
        "survivors": ", ".join(verified["survivors"]),
        "dropped": ", ".join(verified["dropped"]) or "nobody",
        **{f"{what} signed by": ", ".join(silos) for what, silos in verified["signed"].items()},
        "own transcript": "the same, byte for byte" if verified["same_as_own"] else "not compared: no --own",
        "chunks recomputed": recomputed,
        "sum root": verified["sum_root"],
    }
