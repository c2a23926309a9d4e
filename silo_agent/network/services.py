"""What both ends of a connection must have alike: protocol versions, the services' names, the channel's options."""

import re
from collections.abc import Sequence
from typing import Final

from crypto.encoding.wire import MESSAGE_LIMIT
from crypto.names import PROTOCOL
from sparsilo.v1 import identity_pb2, round_pb2, words_pb2

OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # What is on its way and not read yet is lost with a connection: at most this, and the message that is being read.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 18),
    ("grpc.http2.max_frame_size", 1 << 18),  # each frame costs the receiver time; none is longer than what may be sent
)
SPOKEN: Final = (PROTOCOL,)
"""The protocol versions that this program speaks, at either end."""


def said_to_speak(user_agent: str) -> Sequence[str]:
    """Return the protocol versions that a caller speaks, by its user agent; one that names none is from before."""
    return re.findall(r"\bsparsilo/[0-9]{1,4}\b", user_agent[:1000]) or (PROTOCOL,)


ROUNDS: Final = round_pb2.DESCRIPTOR.services_by_name["Rounds"].full_name
IDENTITY: Final = identity_pb2.DESCRIPTOR.services_by_name["Identity"].full_name
WORDS: Final = words_pb2.DESCRIPTOR.services_by_name["Words"].full_name
