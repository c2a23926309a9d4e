"""`silo-agent verify --model`: whether a sparse model is the one that a run's opened sums make, byte for byte; or, of
weights that were solved for, as good a solution as one's own. Where the plan quantises, the same weights as integers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from crypto.backends.verification import verify_transcript
from crypto.errors import BadAudit, InputError
from crypto.names import AGGREGATOR
from crypto.plan import Plan
from crypto.pruning.pruners import PRUNERS
from crypto.releases.planned_rounds import pruning_rounds, release_of
from crypto.releases.release_spec import release_spec
from crypto.secagg.verified import step
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.together import Together
from silo_agent.opened_sums.verify import Progress, read_transcript, verify_opened
from silo_agent.results.provenance import Provenance
from silo_agent.results.quantised_checkpoint import QUANTISED_FOLDER, check_quantised_model
from silo_agent.results.solved_tensors import PublishedTogether
from silo_agent.results.sparse_checkpoint import SparseModel, check_sparse_model, division_of
from silo_agent.rounds.offer_checks import check_model


def verify_model(
    model: Path,
    transcripts: Sequence[Path],
    roster: Mapping[str, bytes],
    weights: DenseWeights,
    progress: Progress,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Return what proves that the folder `model` follows from the dense model `weights` and the opened sums in the
    transcript folders of all rounds of its pruning, in order, under the pinned `roster`; and that the quantised
    model beside it has the same weights, or where the plan does not quantise that there is none.

    Needs a byte on disk for each prunable weight (four where a release has new weights), in a folder that goes
    afterwards: under `scratch`, else where temporary files are. Raises the error of the first step that fails; BadAudit
    names the file, and the tensor, that is not what follows.
    """
    with step("12, rounds"):
        start = _opened(transcripts, roster)
    plan = start.plan
    with step("13, dense model"):
        check_model(plan, weights, weights.digest())
    with step("14, model"), TemporaryDirectory(dir=scratch) as folder:
        together = _made(plan, weights, Path(folder), model, progress)
        for done in range(len(start.opened)):
            progress("expanding sums", done, len(start.opened))
            together.take(start.opened[: done + 1])
        origin = Provenance(plan, start.opened, together.tensors.digest)
        division = division_of(model, weights.stored_names)
        check_sparse_model(
            SparseModel(weights, together.tensors.get, origin.metadata, origin.card, division), model, progress
        )
        quantised = model.resolve().with_name(QUANTISED_FOLDER)
        if (bits := plan.pruning.quantise_bits) is not None:
            check_quantised_model(weights, together.tensors.__getitem__, bits, quantised, progress)
        elif quantised.exists():
            raise BadAudit(f"{quantised}: is no part of this result, which is not quantised", party=AGGREGATOR)
    return {
        "folder": str(model),
        "dense_model": plan.model_digest.hex(),
        "plan": plan.digest.hex(),
        "rounds": len(start.opened),
        "files": sum(1 for _ in model.iterdir()),
        "tensors": len(weights.names),
        "pruned_tensors": len(weights.prunable),
    }


def _made(plan: Plan, weights: DenseWeights, folder: Path, model: Path, progress: Progress) -> Together:
    """Return what makes the model of opened sums: their one result, or where it was solved for what was published."""
    work, cpu = plan.pruning, torch.device("cpu")
    solves = PRUNERS[work.pruner].updates_weights or work.quantise_bits is not None
    if solves and release_spec(release_of(plan)).pools:
        return PublishedTogether(plan, weights, folder, cpu, progress, DenseWeights.open(model).tensor)
    return Together(plan, weights, folder, cpu, progress)


def _opened(transcripts: Sequence[Path], roster: Mapping[str, bytes]) -> Start:
    """Return the rounds of the pruning, each the one that follows from those before it, all proven by signatures."""
    plan = verify_transcript(read_transcript(transcripts[0]), roster).round.plan
    if len(transcripts) != pruning_rounds(plan):
        raise InputError(
            f"{transcripts[0].parent}: has {len(transcripts)} transcripts of {pruning_rounds(plan)} rounds",
            hint="name the result's folder, which has one for each round",
        )
    start = Start(plan)
    for folder in transcripts:
        opened = verify_opened(start.round, folder / SUM_FILE, folder / TRANSCRIPT_FILE, roster)
        start = Start(plan, [*start.opened, opened])
    return start
