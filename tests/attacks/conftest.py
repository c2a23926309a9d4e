"""What attacks on whole parties need: an agent with a model and a text of its own, and an aggregator on the network."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crypto.encoding.wire import encode
from crypto.errors import ConnectionFailed, ProtocolError, SparsiloError
from crypto.identity import Authority, Certified
from crypto.names import Suite
from sparsilo.v1 import plan_pb2, round_pb2, words_pb2
from support.plans import llama_tensors, model_files, plan_message, signing_keys
from support.small_plans import SMALL_PLANS


class Approached:
    """silo-002's agent. Whoever offers it a round hangs up when it has said one thing."""

    def __init__(self, folder: Path, model: Path, suite: Suite = Suite.DEFAULT, **policy: Any) -> None:
        from silo_agent.checkpoint.dense_weights import DenseWeights
        from silo_agent.config import AgentConfig

        keys = signing_keys(5, suite)
        (folder / "key").write_text(keys["silo-002"].to_bytes().hex())
        (folder / "key").chmod(0o600)
        (folder / "roster.yaml").write_text(
            "".join(f'{silo}: "{key.public_bytes.hex()}"\n' for silo, key in keys.items())
        )
        (folder / "text.txt").write_text("A patient came in. " * 200)
        text, state, key, roster, none = (folder / name for name in ("text.txt", "state", "key", "roster.yaml", "none"))
        self.config = AgentConfig(
            *("silo-002", "localhost:1", model, text, state, key, roster, none, none, none, folder / "policy.yaml"),
            suite=suite,
        )
        (folder / "policy.yaml").write_text(json.dumps({"models": "any", "approval": "auto", **SMALL_PLANS, **policy}))
        weights = DenseWeights.open(model)
        self.agreed = plan_message(5, threshold=3, suite=suite)
        """A plan that it accepts."""
        del self.agreed.model[:]
        self.agreed.model.extend(llama_tensors(weights))
        self.agreed.files.extend(model_files(weights))
        self.said: list[object] = []
        self.declined: list[str] = []
        self.served: dict[tuple[str, bytes], bytes] = {}
        """What it can download, by kind and round digest."""
        self.downloaded: set[str] = set()

    def offer(self, plan: plan_pb2.Plan, index: int = 0, input_: bytes = b"", cohort: Sequence[str] = ()) -> None:
        """The agent as it is started, offered one round. Raises why it does not take part."""
        from prometheus_client import CollectorRegistry

        from silo_agent.host.metrics import SiloMetrics
        from silo_agent.rounds.round_driver import Agent

        offered = round_pb2.RoundOffer(plan=encode(plan), index=index, input=input_, cohort=cohort)
        transport: Any = HangingUp(round_pb2.Offer(round=offered), self)
        metrics, nothing = SiloMetrics(CollectorRegistry()), lambda *_: None
        Agent(self.config, transport, metrics, nothing, nothing, nothing, nothing).run()

    def accepts(self, plan: plan_pb2.Plan, **offer: Any) -> None:
        with pytest.raises(ConnectionFailed, match="hung up"):
            self.offer(plan, **offer)
        assert len(self.said) == 1

    def refuses(self, plan: plan_pb2.Plan, error: type[SparsiloError], *words: str, **offer: Any) -> None:
        """With exactly this error, having said, computed and remembered nothing."""
        from silo_agent.consent.audit_log import AUDIT_FILE
        from silo_agent.consent.state_store import STATE_FILE, StateStore

        with pytest.raises(error) as refused:
            self.offer(plan, **offer)
        assert type(refused.value) is error
        assert all(word in refused.value.message for word in words), refused.value.message
        assert self.said == []
        files = {file.name for file in self.config.state.rglob("*") if file.is_file()}
        written = files - {AUDIT_FILE}  # which says that it refused
        assert (
            {STATE_FILE} <= written <= {STATE_FILE, *self.downloaded}
        )  # without words that were not what was asked for
        assert StateStore(self.config.state / STATE_FILE).releases() == []


class HangingUp:
    """In the transport's place: offers one round, serves files, and hangs up on the first thing that is said."""

    def __init__(self, offered: round_pb2.Offer, approached: Approached) -> None:
        self._offered, self._approached = offered, approached

    def next(self) -> round_pb2.Offer:
        return self._offered

    def download(self, request: words_pb2.FileRequest, file: Path, most: int) -> None:
        kind = request.WhichOneof("file") or ""
        self._approached.downloaded.add(file.name)
        served = self._approached.served[kind, getattr(request, kind)]
        if len(served) > most:  # as the transport does
            raise ProtocolError(f"serves a file of more than {most} bytes", party="aggregator")
        file.write_bytes(served)

    def decline(self, round_digest: bytes, reason: str) -> None:
        self._approached.declined.append(reason)

    def withdraw(self, round_digest: bytes, signature: bytes) -> list[tuple[str, bytes]]:
        return []

    def perform(self, call: object) -> None:
        self._approached.said.append(call)
        raise ConnectionFailed("hung up")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.models import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("attacks") / "dense")


@pytest.fixture
def approach(tmp_path: Path, model: Path) -> Callable[..., Approached]:
    return partial(Approached, tmp_path, model)


class Network:
    """An aggregator that listens on loopback for five silos, and transports to it."""

    def __init__(self, stack: ExitStack) -> None:
        from prometheus_client import CollectorRegistry

        from aggregator.metrics import AggregatorMetrics
        from aggregator.rounds.round_driver import RoundDriver
        from support.driven import serving

        self._stack = stack
        self.authority = Authority("ours", datetime.now(UTC), timedelta(days=1))
        self.driver = RoundDriver(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
        own = self.authority.issue("aggregator", ("127.0.0.1",))
        self._port = stack.enter_context(serving(self.driver, signing_keys(5), own, self.authority.certificate))

    def finish(self) -> None:
        """All is over: who calls is not kept waiting for a round."""
        asyncio.run(self.driver.finish())

    def caller(self, own: Certified) -> Any:
        """A silo's transport with that certificate."""
        from prometheus_client import CollectorRegistry

        from silo_agent.host.metrics import SiloMetrics
        from silo_agent.network.transport import Transport

        metrics = SiloMetrics(CollectorRegistry())
        transport = Transport(
            f"127.0.0.1:{self._port}", own, self.authority.certificate, metrics, reconnect_seconds=0.3
        )
        return self._stack.enter_context(closing(transport))


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)
