"""Files of keys and certificates: how they are read, how they are written, and how an error names the one at fault."""

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


def write_secret(file: Path, content: bytes) -> None:
    """Make a new file that no other user can read, whole or not at all.

    Raises FileExistsError where the file is there already.
    """
    write_whole(file, content, mode=SECRET, replace=False)


def read_signing_key(file: Path, suite: Suite) -> SigningKey:
    """Read a private signing key of `suite` in hex. Raises IdentityError naming the file, never its content."""
    try:
        secret = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
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
