"""Files of keys and certificates: how they are read, how they are written, and how an error names the one at fault."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crypto.errors import IdentityError
from crypto.names import Suite
from crypto.primitives.signing import SigningKey
from silo_agent.host.whole_file import SECRET, write_whole


def read_credential(file: Path) -> bytes:
    """Return a certificate or key file's bytes. Raises IdentityError naming the file where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None


def read_secret(file: Path) -> bytes:
    """Return a key file's bytes. Raises IdentityError naming the file where it cannot be read, or others can."""
    try:
        with file.open("rb") as opened:
            status, content = os.fstat(opened.fileno()), opened.read()
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
    if others_may(status):
        raise IdentityError(f"{file}: is open to others (mode {status.st_mode & 0o777:o})", hint=f"chmod 600 {file}")
    return content


def others_may(status: os.stat_result) -> bool:
    """Return whether anybody may use a file, or a group that this process is no member of.

    A group of its own is what Kubernetes mounts secrets for.
    """
    own_groups = {os.getegid(), *os.getgroups()}
    return bool(status.st_mode & stat.S_IRWXO or (status.st_mode & stat.S_IRWXG and status.st_gid not in own_groups))


def write_secret(file: Path, content: bytes) -> None:
    """Make a new file that no other user can read, whole or not at all.

    Raises FileExistsError where the file is there already.
    """
    write_whole(file, content, mode=SECRET, replace=False)


def read_signing_key(file: Path, suite: Suite) -> SigningKey:
    """Read a private signing key of `suite` in hex. Raises IdentityError naming the file, never its content."""
    content = read_secret(file)
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        raise IdentityError(f"{file}: is not a signing key", hint="hex digits are expected") from None
    with naming(file):
        return SigningKey.from_bytes(secret, suite)


def write_signing_key(file: Path, key: SigningKey) -> None:
    """Make a new file that holds `key` in hex and that no other user can read."""
    write_secret(file, key.to_bytes().hex().encode())


@contextmanager
def naming(source: Path | str) -> Iterator[None]:
    """Put `source`, such as a file, before the message of an IdentityError that is raised within."""
    try:
        yield
    except IdentityError as error:
        raise IdentityError(f"{source}: {error.message}", hint=error.hint) from None
