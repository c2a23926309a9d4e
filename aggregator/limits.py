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
LONGEST_CALL_SECONDS: Final = 600
"""How long after that a call may go on. It ends streams that nobody reads. Transfers go on at the chunk."""
MOST_CALLS: Final = 8
"""Calls of one silo at a time, counted before their requests are read, and of one connection. An agent makes one or
two, but those that it made on a connection that was lost end only when the loss is noticed.
"""
MANY_CALLS_A_MINUTE: Final = 6000
"""A silo that calls more often is named in the log. An audit makes a call a chunk, a reset costs a call as well."""
REQUEST_SECONDS: Final = 60
"""How long a request, or the next message of an upload, may take to arrive: 8 MiB at 1 Mbit/s. Then the call ends."""
UNREAD_SECONDS: Final = 60
"""A silo that does not read what it asked for is named in the log after this. Its call counts until it ends."""
IDENTITY_CALLS_A_MINUTE: Final = 60
"""Calls of the service Identity in one silo's name: each opens a file on disk. Agents and people make a few a day."""
UNREADABLE_SECONDS: Final = 300
"""How long silos are heard as they were last known to be enrolled, while `enrolments.sqlite` cannot be read. A backup
may hold its lock for a minute.
"""
LEAST_PING_SECONDS: Final = 10
"""A connection that is pinged more often is closed. Agents ping every 20 seconds."""
