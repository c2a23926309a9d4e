"""The simulated worlds of a story: every message is written down as it arrives."""

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from aggregator.rounds.round_driver import RoundDriver
from attacks.stage import Stage
from crypto.errors import ReleaseRefused, RoundAborted, SparsiloError
from crypto.names import Phase, Suite
from crypto.primitives.sealed import SealingKey
from crypto.secagg.round import Round
from crypto.secagg.session import SiloSession
from scenarios.simulation import Kill, Lost, Schedule, Simulation
from scenarios.transcript import Transcript, aggregator_says, in_words, listed, silo_says
from scenarios.world import plain_sum
from vectors.case import sealing_key


@contextmanager
def repeatable_sealing_keys() -> Iterator[None]:
    """The n-th key that is generated is the same in every run: it decides who recomputes what."""
    keys = iter(range(1000))

    def generate(suite: Suite) -> SealingKey:
        return sealing_key(suite, f"story {next(keys)}")[0]

    with mock.patch.object(SealingKey, "generate", generate):
        yield


class ToldStage(Stage):
    """One round without network, clock or disk; whoever refuses a message falls silent."""

    def __init__(self, lost: Mapping[str, Phase] | None = None, round_: Round | None = None, **plan: Any) -> None:
        self.story, self._chance = Transcript(), random.Random(0)
        with repeatable_sealing_keys():
            super().__init__(Phase.PLAN, lost, round_=round_, **plan)

    def make_silo(self, silo: str) -> SiloSession:
        with mock.patch("secrets.token_bytes", self._chance.randbytes):
            return super().make_silo(silo)

    def speaks(self, silo: str, phase: Phase) -> bool:
        return super().speaks(silo, phase) and self.silos[silo].phase is not Phase.ABORTED

    def go_on_telling(self, until: Phase) -> None:
        while self.aggregator.phase not in (until, Phase.ABORTED):
            phase = self.aggregator.phase
            self.deliver(self.answers(), phase)

    def play(self) -> None:
        """All phases that are left, and how it ended."""
        self.go_on_telling(Phase.DONE)
        if self.aggregator.phase is Phase.ABORTED:
            self.story.note("There is no sum.")
            return
        opened = {name: sums.tolist() for name, sums in self.open().items()}
        assert opened == plain_sum(self.lanes, self.aggregator.survivors)
        self.story.note(f"The sum over {listed(self.aggregator.survivors)} is exact.")

    def answers(self) -> dict[str, bytes]:
        """Everybody speaks and the phase closes; where too few spoke, it is over and everybody hears so."""
        phase = self.aggregator.phase
        self.story.phase(phase)
        for silo in self.aggregator.expected:
            if self.lost.get(silo) is phase:
                self.story.happened(silo, "silent from now on")
        try:
            return super().answers()
        except SparsiloError as error:
            self.story.note(f"The aggregator ends the round. {in_words(error)}")
            return dict.fromkeys(self.aggregator.expected, self.aggregator.abort(error.message))

    def speak(self, silo: str) -> None:
        try:
            super().speak(silo)
        except SparsiloError as error:
            self.story.happened(silo, f"refusal. {in_words(error)}")
        else:
            self.story.sent(silo, silo_says(self.said[silo, self.aggregator.phase]))

    def deliver(self, answers: Mapping[str, bytes], phase: Phase) -> None:
        """Every silo that still listens takes in what answers its message of `phase`, or refuses it."""
        listening = [silo for silo in answers if self.speaks(silo, phase)]
        for silo in listening:
            self.story.told(silo, aggregator_says(answers[silo]))
        for silo in listening:
            try:
                self.silos[silo].receive(answers[silo])
            except SparsiloError as error:
                if type(error) is not RoundAborted:  # which is what it was told
                    self.story.happened(silo, f"refusal. {in_words(error)}")


class ToldSimulation(Simulation):
    """One round over the simulated network, as the aggregator sees it."""

    def __init__(self, schedule: Schedule, folder: Path, declining: str = "") -> None:
        super().__init__(schedule, folder)
        self.story = Transcript(as_they_came=schedule.doubled > 0)
        self._declining = declining
        self._present = Phase.PLAN
        self._heard: set[tuple[str, bytes]] = set()
        self._answered: set[tuple[str, bytes]] = set()
        self._started: set[str] = set()

    def play(self) -> None:
        with repeatable_sealing_keys():
            self.run()
        self.check()
        if self.closed is not None:
            self.story.note(f"The sum over {listed(self.closed.survivors)} is exact.")
        else:
            assert self.failure is not None
            self.story.note(f"There is no sum. {in_words(self.failure)}")
        for silo, error in sorted(self.ended.items(), key=lambda ended: (ended[1] is not None, ended[0])):
            self.story.happened(silo, "done" if error is None else f"no part in it. {in_words(error)}")

    async def _sabotage(self, kill: Kill) -> None:
        await super()._sabotage(kill)
        self.story.phase(self._present)
        if kill.silo is None:
            self.story.note("The aggregator is killed.")
        else:
            self.story.happened(kill.silo, "killed")

    async def _aggregator(self) -> None:
        if "" in self._started:
            self.story.note("The aggregator is started again, and reads its journal.")
        self._started.add("")
        await super()._aggregator()

    async def _silo(self, silo: str) -> None:
        if silo in self._started:
            self.story.happened(silo, "started again")
        self._started.add(silo)
        if silo == self._declining:
            await self._offer(silo)
            await self._call(self._decline, silo)
            await self._offer(silo)  # the end
            self.ended[silo] = ReleaseRefused("its ledger does not allow the release")
        else:
            await super()._silo(silo)

    async def _attempt(self, handler: Callable[..., Awaitable[Any]], silo: str, *arguments: Any) -> Any:
        try:
            return await super()._attempt(handler, silo, *arguments)
        except Lost:
            self.story.happened(silo, "no answer: the connection broke")
            raise

    async def _advance(self, driver: RoundDriver, silo: str, message: bytes) -> bytes:
        self.story.phase(self._present)
        again = (silo, message) in self._heard
        self._heard.add((silo, message))
        self.story.sent(silo, "the same again" if again else silo_says(message))
        answer = await super()._advance(driver, silo, message)
        again = (silo, answer) in self._answered
        self._answered.add((silo, answer))
        self.story.told(silo, "the same again" if again else aggregator_says(answer))
        return answer

    async def _decline(self, driver: RoundDriver, silo: str) -> None:
        self.story.phase(self._present)
        self.story.sent(silo, f"it declines the round ({ReleaseRefused.code})")
        await driver.decline(silo, self.round.digest, ReleaseRefused.code)
