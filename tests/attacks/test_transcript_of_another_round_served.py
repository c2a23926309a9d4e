"""A dishonest aggregator proves what a round starts from with the true transcript and sum of another round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.coin import drawn, offer_of, played, serve, start_after, with_layer_sampling
from attacks.stage import AGGREGATOR
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, ProtocolError
from sparsilo.v1 import plan_pb2

pytestmark = pytest.mark.clause("2.2.4", "5.10.1", "7.12")


def test_of_another_run_of_the_same_silos(approach: Callable[..., Any], tmp_path: Path) -> None:
    """Whose coin it knew already when it chose this run."""
    silo = approach()
    world, start = drawn(silo, tmp_path)
    message = plan_pb2.Plan.FromString(silo.agreed.SerializeToString())
    message.run = b"an earlier run.."
    earlier = played(with_layer_sampling(message), 3)
    for words in (earlier.opened, world.opened):
        silo.served["opened_sum", world.round.digest] = b"".join(words)
        silo.served["transcript", world.round.digest] = encode(earlier.aggregator.transcript)
        for offered in (start_after(world, tmp_path, earlier.opened).round, start.round):
            silo.refuses(silo.agreed, BadAudit, AGGREGATOR, "of another round than", **offer_of(offered))


def test_of_another_round_of_this_run(approach: Callable[..., Any], tmp_path: Path) -> None:
    """Where a round of the chain has been, it cannot be left out or taken for its neighbour."""
    silo = approach()
    world, start = drawn(silo, tmp_path)
    first = played(world.plan, 1, round_=start.round)
    silo.served["opened_sum", start.round.digest] = b"".join(first.opened)
    silo.served["transcript", start.round.digest] = encode(world.aggregator.transcript)
    second = offer_of(start.round) | {"index": 2}
    silo.refuses(silo.agreed, BadAudit, AGGREGATOR, "of another round than", **second)
    serve(silo, first)
    silo.served["transcript", world.round.digest] = encode(first.aggregator.transcript)
    silo.refuses(silo.agreed, BadAudit, AGGREGATOR, "of another round than", **offer_of(start.round))
    silo.served["opened_sum", world.round.digest] = b"".join(first.opened)
    silo.refuses(silo.agreed, ProtocolError, AGGREGATOR, "more than 40 bytes", **offer_of(start.round))
    serve(silo, world)
    silo.accepts(silo.agreed, **offer_of(start.round))  # nothing of what was served before is taken for its own
