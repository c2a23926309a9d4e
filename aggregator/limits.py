"""How much one caller, or all of them together, can make the aggregator hold, do or wait for.

Each bound says why it is what it is. docs/operations.md has the same table, and a test holds the two together.
"""

from typing import Final

MOST_CONNECTIONS: Final = 512
"""Connections, handshakes among them; at most a quarter of the file descriptors that the process may have. 200 silos
need 200. Uploads and journals need descriptors too, also while a certificate changes and two servers listen.
"""
HANDSHAKE_SECONDS: Final = 20
"""From the connection until TLS and HTTP/2 are agreed. A line with 300 ms needs two; whoever says nothing goes."""
IDLE_SECONDS: Final = 300
"""How long a connection without a call stays. An agent that computes for hours makes a new one."""
CONNECTION_SECONDS: Final = 600
"""A connection is made anew after this, by whichever certificate is then in force. Calls under way are not cut off."""
LONGEST_CALL_SECONDS: Final = 3600
"""How long after that a call may go on. It ends streams that nobody reads."""
MOST_CALLS: Final = 16
"""Calls of one silo at a time, and of one connection. An agent makes one or two, but those that it made on a connection
that was lost end only when the loss is noticed.
"""
LEAST_PING_SECONDS: Final = 10
"""A connection that is pinged more often is closed. Agents ping every 20 seconds."""
