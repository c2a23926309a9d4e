"""`silo-agent preflight`: what would stop this silo in a round, and what crypto library it stands on."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.bindings import _rust

from crypto.errors import CalibrationError, InputError, SparsiloError
from crypto.names import Suite
from silo_agent.calibration import data_digest, records
from silo_agent.config import AgentConfig, read_identity, read_tls
from silo_agent.dense_weights import DenseWeights
from silo_agent.device import named_device
from silo_agent.model_folder import model_folder
from silo_agent.state_store import STATE_FILE, StateStore

LIBRARY: Final = re.compile(rb"libcrypto[\w.-]*\.(?:so|dylib|dll)[\d.]*")


@dataclass(frozen=True)
class Check:
    """One line. `status` is ok or failed; fact or warning where nothing was there to fail."""

    name: str
    status: str
    said: str
    error: SparsiloError | None = None


def check_agent(file: Path, now: datetime) -> list[Check]:
    """Every check, in the order in which a round would come to them. Raises nothing that a config can cause."""
    try:
        config = AgentConfig.read(file)
    except SparsiloError as error:
        return [Check("config", "failed", str(error), error), *crypto_library(Suite.DEFAULT)]
    said = f"{file}: silo {config.silo}, suite {config.suite.profile}, backend {config.backend}"
    checks = [_checked(name, check) for name, check in _checks(config, now)]
    return [Check("config", "ok", said), *checks, *crypto_library(config.suite)]


def _checks(config: AgentConfig, now: datetime) -> Iterator[tuple[str, Callable[[], str]]]:
    def identity() -> str:
        _, roster = read_identity(config)
        return f"{config.signing_key}: its public key is the roster's of {config.silo}, one of {len(roster)} silos"

    def tls() -> str:
        read_tls(config, now)
        return f"{config.certificate}, {config.private_key}, {config.authority}: fit together and are in force"

    def model() -> str:
        weights = DenseWeights.open(model_folder(config.model))
        tokens = len(weights.tokenizer)
        return f"{config.model}: {len(weights.prunable)} prunable tensors, a tokenizer of {tokens} tokens"

    def device() -> str:
        return f"{named_device(config.device)}: is here"

    def calibration() -> str:
        filled = sum(map(bool, records(config.calibration)))
        if not filled:
            raise CalibrationError(f"{config.calibration}: has no text", hint="give a file with text in it")
        return (
            f"{config.calibration}: records with text: {filled}; its digest is {data_digest(config.calibration).hex()}"
        )

    def state() -> str:
        StateStore(config.state / STATE_FILE)
        return f"{config.state}: can be written; that the disk is this machine's own cannot be seen from here"

    yield "identity", identity
    yield "TLS", tls
    yield "model", model
    yield "device", device
    yield "calibration", calibration
    yield "state", state


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except SparsiloError as error:
        return Check(name, "failed", str(error), error)
    except OSError as error:  # a folder that cannot be made
        problem = InputError(f"{error.filename}: {error.strerror}", hint="name another in the config")
        return Check(name, "failed", str(problem), problem)


def crypto_library(suite: Suite) -> list[Check]:
    """What is underneath, as facts: whether a module is validated is for its certificate to say (NIST CMVP)."""
    version = backend.openssl_version_text()
    library = linked_libcrypto(Path(_rust.__file__))
    where = f"in the shared library {library}" if library else "bundled in the cryptography package"
    # The library has no public name for this; the attribute is what its own algorithm checks go by.
    active = backend._fips_enabled
    mode = Check(
        "FIPS mode", "fact", "on: whether this very module is validated, its certificate says, not this program"
    )
    if not active:
        said = (
            f"off: not a validated {'module in use' if library else 'build'}: {version} is {where} and its FIPS "
            "provider is not active. Approved algorithms do not make a module validated"
        )
        mode = Check("FIPS mode", "warning" if suite is Suite.FIPS else "fact", said)
    return [Check("crypto library", "fact", f"cryptography {cryptography.__version__}, {version} {where}"), mode]


def linked_libcrypto(module: Path) -> str:
    """The shared libcrypto that a compiled module asks the linker for; empty where OpenSSL is inside the module.

    A module names the libraries it needs by file name (ELF DT_NEEDED, Mach-O LC_LOAD_DYLIB, PE imports), so one that
    holds no such name was not linked to any.
    """
    found = LIBRARY.search(module.read_bytes())
    return found[0].decode() if found else ""
