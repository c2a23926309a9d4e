"""An event loop whose clock jumps to the next thing that is due: tests of deadlines take no time, and none depends on
how loaded the machine is.
"""

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any


class Hung(Exception):
    """Somebody waits and nothing will ever happen."""


class SeededLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is simulated, and whose worker threads are moments of it."""

    def __init__(self, random_: random.Random) -> None:
        self._now = 0.0
        self._random = random_
        loop = self

        class Clock(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> Any:
                if timeout is None:
                    raise Hung("nothing is due")
                loop._now += max(0.0, timeout)
                return super().select(0)

        super().__init__(Clock())

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:  # type: ignore[override]
        async def later() -> Any:
            await asyncio.sleep(self._random.expovariate(50))
            return function(*arguments)

        return self.create_task(later())
