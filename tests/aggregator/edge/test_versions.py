"""Protocol versions: whoever speaks none of the aggregator's is told so in every call; whoever speaks one is heard."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from crypto.errors import VersionsDiffer
from crypto.identity import Certified
from silo_agent.network import transport
from silo_agent.network.services import IDENTITY, ROUNDS, WORDS, said_to_speak
from support.driven import looping, on
from support.enrolling import Aggregator

SILO = "a"


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[Aggregator]:
    with looping() as loop:
        serving = Aggregator(tmp_path, loop)
        yield serving
        on(loop, serving.server.stop())


def channel(aggregator: Aggregator, own: Certified, *speaks: str) -> grpc.Channel:
    """An agent of another release; without `speaks` one from before agents named versions."""
    credentials = grpc.ssl_channel_credentials(aggregator.identity.trusted, own.private_key, own.certificate)
    options = [("grpc.primary_user_agent", " ".join(speaks))] if speaks else []
    return grpc.secure_channel(f"127.0.0.1:{aggregator.port}", credentials, options)


@pytest.mark.parametrize(
    ("user_agent", "speaks"),
    [
        ("grpc-python/1.74.0 grpc-c/49.0.0 (linux; chttp2)", ["sparsilo/1"]),
        ("sparsilo/1 sparsilo/12 grpc-python/1.74.0", ["sparsilo/1", "sparsilo/12"]),
        ("notsparsilo/7 sparsilo/", ["sparsilo/1"]),
        ("x" * 100_000, ["sparsilo/1"]),
    ],
)
def test_what_a_user_agent_says(user_agent: str, speaks: list[str]) -> None:
    assert list(said_to_speak(user_agent)) == speaks


@pytest.mark.clause("7.15")
def test_an_older_agent_is_heard_and_one_that_speaks_more_too(aggregator: Aggregator) -> None:
    own = aggregator.enroll(SILO)
    for speaks in ((), ("sparsilo/1",), ("sparsilo/2", "sparsilo/1")):
        with closing(channel(aggregator, own, *speaks)) as agent:
            assert agent.unary_unary(f"/{IDENTITY}/Roster")(b"", timeout=60)


@pytest.mark.clause("7.15")
def test_an_agent_of_other_versions_is_refused_in_every_call_and_told_why(aggregator: Aggregator) -> None:
    own = aggregator.invitation(SILO)  # which is good for one call only: nothing was looked at
    with closing(channel(aggregator, own, "sparsilo/8", "sparsilo/9")) as agent:
        calls: list[Any] = [agent.unary_unary(f"/{service}") for service in (f"{ROUNDS}/Next", f"{IDENTITY}/Enroll")]
        for call in calls:
            with pytest.raises(grpc.RpcError, match="speaks sparsilo/1, this agent sparsilo/8, sparsilo/9") as refused:
                call(b"", timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        upload: Any = agent.stream_unary(f"/{WORDS}/Upload")
        with pytest.raises(grpc.RpcError, match="install one release at both"):
            upload(iter([b"", b""]), timeout=60)
        committed: Any = agent.unary_stream(f"/{WORDS}/Committed")
        with pytest.raises(grpc.RpcError, match="install one release at both"):
            list(committed(b"", timeout=60))


def test_an_agent_says_on_one_line_which_versions_differ(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = aggregator.enroll(SILO)
    monkeypatch.setattr(transport, "SPOKEN", ("sparsilo/9",))
    with closing(aggregator.transport(own)) as agent, pytest.raises(VersionsDiffer) as refused:
        agent.next()
    assert (refused.value.exit_code, str(refused.value).count("\n")) == (2, 0)
    assert "speaks sparsilo/1, this agent sparsilo/9: install" in str(refused.value)
    assert "this is sparsilo 0." in str(refused.value)
