"""Which crypto library a silo stands on, as facts: whether a module is validated is for its certificate to say."""

import re
from pathlib import Path
from typing import Final

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.bindings import _rust

from crypto.names import Suite
from silo_agent.commands.checks.check import Check

LIBRARY: Final = re.compile(rb"libcrypto[\w.-]*\.(?:so|dylib|dll)[\d.]*")
"""The file name of a shared libcrypto, as a compiled module names it."""


def crypto_library(suite: Suite) -> list[Check]:
    """Return what is underneath and whether its FIPS mode is on (NIST CMVP lists the validated modules)."""
    version = backend.openssl_version_text()
    library = linked_libcrypto(Path(_rust.__file__))
    where = f"in the shared library {library}" if library else "bundled in the cryptography package"
    # The library has no public name for this; the attribute is what its own algorithm checks go by.
    if backend._fips_enabled:
        on = "on: whether this very module is validated, its certificate says, not this program"
        mode = Check("FIPS mode", "fact", on)
    else:
        off = (
            f"off: not a validated {'module in use' if library else 'build'}: {version} is {where} and its FIPS "
            "provider is not active. Approved algorithms do not make a module validated"
        )
        mode = Check("FIPS mode", "warning" if suite is Suite.FIPS else "fact", off)
    return [Check("crypto library", "fact", f"cryptography {cryptography.__version__}, {version} {where}"), mode]


def linked_libcrypto(module: Path) -> str:
    """Return the shared libcrypto that a compiled module asks the linker for; empty where OpenSSL is inside the module.

    A module names the libraries it needs by file name (ELF DT_NEEDED, Mach-O LC_LOAD_DYLIB, PE imports), so one that
    holds no such name was not linked to any.
    """
    name = LIBRARY.search(module.read_bytes())
    return name[0].decode() if name else ""
