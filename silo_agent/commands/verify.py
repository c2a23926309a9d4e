"""`silo-agent verify`: check a round from its saved transcript, offline."""

from pathlib import Path
from typing import Any

import click

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
@click.argument("folder", type=FILE, metavar="TRANSCRIPT_FOLDER")
@click.option("--roster", required=True, type=FILE, help="Your pinned roster: all that is proven rests on its keys.")
@suite_option
@click.option("--own", type=FILE, help="state/ROUND.transcript, which your agent wrote: must be the same round.")
@click.option("--signatures-only", is_flag=True, help="Leave the words alone, where they are not at hand.")
@output_option
def verify(folder: Path, roster: Path, suite: str, own: Path | None, signatures_only: bool, output: str) -> None:
    """Check a round after it is over.

    Nobody who ran it need be trusted. Every signature is verified under your pinned roster, and the opened sum is
    computed anew from the masked words that the silos signed. No secret and no network is needed. TRANSCRIPT_FOLDER
    is what `aggregator local --save-transcript` writes; a roster.yaml in it is its maker's word, so compare it with
    yours. What cannot be shown: that a silo's words said the truth about its text.

    \b
    Example:
      silo-agent verify pruned/transcript --roster roster.yaml --own state/0a1b2c.transcript
    """
    from silo_agent.identity.own_files import read_roster
    from silo_agent.rounds.verify import verify_folder

    with failing_as(output), ProgressBars() as progress:
        pinned = read_roster(roster, Suite[suite.upper()])
        verified = verify_folder(folder, pinned, own, not signatures_only, progress)
    if output == "json":
        print_envelope("done", data=verified)
        return
    print_fields(_as_fields(verified, signatures_only))


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
