"""What both ends of a connection must have alike: the services' names and the channel's options."""

from typing import Final

from crypto.encoding.wire import MESSAGE_LIMIT
from sparsilo.v1 import identity_pb2, round_pb2, words_pb2

OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
ROUNDS: Final = round_pb2.DESCRIPTOR.services_by_name["Rounds"].full_name
IDENTITY: Final = identity_pb2.DESCRIPTOR.services_by_name["Identity"].full_name
WORDS: Final = words_pb2.DESCRIPTOR.services_by_name["Words"].full_name
