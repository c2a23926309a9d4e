"""The stories: each is one way in which a round can go wrong, and how it ends. `make stories` writes them anew.

A story's name is its file's, its docstring the file's first lines.
"""

from collections.abc import Callable
from pathlib import Path

from attacks.stage import FOUR, ONE, SILOS, THREE, TWO, ZERO, altered, heard, told, without
from crypto.errors import BadUpload, UnexpectedMessage
from crypto.names import Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from scenarios.simulation import Kill, Schedule
from scenarios.told import ToldSimulation, ToldStage
from scenarios.transcript import Transcript, in_words, silo_says
from scenarios.world import Lanes
from sparsilo.v1 import round_pb2
from support.opened import planned
from support.plans import plan_message

Story = Callable[[Path], Transcript]


def lost_before_upload(folder: Path) -> Transcript:
    """A silo is lost before its upload is whole: its words are in no sum.

    The others reveal its bundle key, and so the pairwise masks that they share with it, but never its self seed.
    """
    return played(ToldStage({THREE: Phase.UPLOAD}))


def lost_after_upload(folder: Path) -> Transcript:
    """A silo is lost after its upload: its words stay in the sum.

    The others hold enough shares of its self seed; it is needed for nothing more.
    """
    return played(ToldStage({THREE: Phase.CONSISTENCY}))


def too_few_in_unmask(folder: Path) -> Transcript:
    """Three of five silos are lost in UNMASK, where three have to be left: nothing is opened.

    All five uploads are there, but two silos' shares open no seed.
    """
    return played(ToldStage(dict.fromkeys((ONE, TWO, THREE), Phase.UNMASK)))


def one_silo_declines(folder: Path) -> Transcript:
    """A silo's ledger does not allow the release, and it says so: nobody waits for it, and the others go on."""
    return simulated(folder, 2, declining=TWO)


def forged_sum(folder: Path) -> Transcript:
    """The aggregator opens another sum than the uploads', in which one silo more kept the first weight.

    The counts and their root fit each other. The silos that recompute the chunk from the uploads find it.
    """

    def one_more(opened: dict[str, Lanes]) -> None:
        opened["votes blocks.0.weight"][int(opened["votes blocks.0.weight"].argmin())] += 1
        opened["nonzero counts blocks.0.weight"][0] += 1

    stage = ToldStage()
    stage.forge = one_more
    return played(stage)


def two_survivor_sets(folder: Path) -> Transcript:
    """The aggregator shows some silos a survivor set with silo 4 in it, and the others one without.

    It wants silo 4's self seed from the first and its bundle key from the others: both its masks. Three signatures of
    one set are needed before anybody reveals anything, and the smaller part cannot have them.
    """
    stage = ToldStage()
    stage.go_on_telling(Phase.UPLOAD)
    answers = stage.answers()
    for silo in (TWO, THREE):
        answers[silo] = altered(answers[silo], without("roots", FOUR))
    stage.deliver(answers, Phase.UPLOAD)
    stage.story.phase(Phase.CONSISTENCY)
    signed = {}
    for silo in SILOS:
        signed[silo] = heard(stage.silos[silo].message()).signature
        stage.story.sent(silo, "a signature of the survivor set that it was shown")
    for part in ((ZERO, ONE, FOUR), (TWO, THREE)):
        forwarded = round_pb2.SurvivorsSignatures(
            signatures=[round_pb2.SiloSignature(silo=silo, signature=signed[silo]) for silo in part]
        )
        stage.deliver(dict.fromkeys(part, told(stage, survivors_signatures=forwarded)), Phase.CONSISTENCY)
    for silo in SILOS:
        if stage.silos[silo].phase is Phase.UNMASK:
            stage.story.sent(silo, silo_says(stage.silos[silo].message()))
    return stage.story


def withheld_coin(folder: Path) -> Transcript:
    """A silo withholds its coin when it has seen the others', to have chunks assigned without it.

    Who has signed the opening has to toss, so that nobody chooses between two assignments.
    """
    return played(ToldStage({FOUR: Phase.COIN}))


def retry_with_other_bytes(folder: Path) -> Transcript:
    """An upload breaks off, and the silo's keep mask changes before the retry.

    A second plaintext under one mask would show the difference, so that nothing leaves.
    """
    stage = ToldStage()
    stage.go_on_telling(Phase.UPLOAD)
    first = stage.packed(ZERO)
    for index in (0, 1):
        stage.silos[ZERO].masked(index, first[index])
    stage.story.phase(Phase.UPLOAD)
    stage.story.sent(ZERO, "chunks 0 and 1 of masked words; then the connection breaks")
    stage.silos[ZERO].masked(0, stage.packed(ZERO)[0])
    stage.story.sent(ZERO, "chunk 0 again, the same bytes")
    stage.lanes[ZERO]["nonzero counts blocks.0.weight"] += 1
    try:
        stage.silos[ZERO].masked(1, stage.packed(ZERO)[1])
    except BadUpload as error:
        stage.story.happened(ZERO, f"no second chunk 1. {in_words(error)}")
    return played(stage)


def outside_the_cohort(folder: Path) -> Transcript:
    """Layer sampling drew silos 0, 2, 4 and 5 of seven for a block; silo 1 speaks all the same.

    Nobody outside the cohort is heard, and lanes, threshold and sum are the cohort's.
    """
    plan = planned({"blocks.0.weight": (0, (6, 10), False)}, silos=7, cohort_floor=3, capacities=(1,) * 7)
    cohort = tuple(f"silo-00{index}" for index in (0, 2, 4, 5))
    stage = ToldStage(round_=Round.of(plan.encoded, 1, b"what was opened before, 32 bytes", cohort))
    outsider = stage.make_silo(ONE)
    stage.story.phase(Phase.PLAN)
    stage.story.sent(ONE, "the plan is accepted")
    try:
        stage.aggregator.receive(ONE, outsider.message())
    except UnexpectedMessage as error:
        stage.story.note(f"The aggregator does not listen. {in_words(error)}")
    return played(stage)


def silo_crashes_before_it_accepts(folder: Path) -> Transcript:
    """A silo's agent is killed while it prepares, and is back before the others are through: it takes part."""
    return simulated(folder, 3, Kill(ONE, Phase.PLAN, 0.0, back=1.0))


def silo_crashes_in_upload(folder: Path) -> Transcript:
    """A silo's agent is killed in UPLOAD and comes back: its keys are gone, so the round goes on without it."""
    return simulated(folder, 4, Kill(ONE, Phase.UPLOAD, 0.0, back=1.0))


def aggregator_is_killed(folder: Path) -> Transcript:
    """The aggregator is killed in CONSISTENCY and started again: it reads what was said and goes on.

    Silos that ask again get the same answers to the same bytes.
    """
    return simulated(folder, 5, Kill(None, Phase.CONSISTENCY, 0.05, back=3.0))


def repeated_and_reordered(folder: Path) -> Transcript:
    """Messages are late, arrive in any order and twice, and some are lost: the sum is exact all the same."""
    return simulated(folder, 3, loss=0.02, doubled=0.15, delay=0.3)


STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (
        *(lost_before_upload, lost_after_upload, too_few_in_unmask, silo_crashes_before_it_accepts),
        *(silo_crashes_in_upload, aggregator_is_killed, repeated_and_reordered, one_silo_declines, forged_sum),
        *(two_survivor_sets, withheld_coin, retry_with_other_bytes, outside_the_cohort),
    )
}


def played(stage: ToldStage) -> Transcript:
    stage.play()
    return stage.story


def simulated(
    folder: Path,
    seed: int,
    *kills: Kill,
    loss: float = 0.0,
    doubled: float = 0.0,
    delay: float = 0.01,
    declining: str = "",
) -> Transcript:
    """Four silos of which three have to be left."""
    schedule = Schedule(seed, kills=list(kills))
    schedule.plan = checked_plan(plan_message(4, threshold=3))
    schedule.loss, schedule.doubled, schedule.delay = loss, doubled, delay
    simulation = ToldSimulation(schedule, folder, declining)
    simulation.play()
    return simulation.story
