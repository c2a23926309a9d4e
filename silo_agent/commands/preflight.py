"""`silo-agent preflight`: what would stop this silo in a round, and what crypto library it stands on."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import cryptography
import torch
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.bindings import _rust

from crypto.errors import CalibrationError, ConfigError, InputError, OutputError, SparsiloError
from crypto.identity import read_peer
from crypto.names import Suite
from silo_agent.config import AgentConfig, proxy_setting, read_bytes, read_identity, read_tls
from silo_agent.consent.policy import Policy, trusted_digest
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.model.calibration import data_digest, records, usual_length
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.device import named_device
from silo_agent.model.model_folder import model_folder
from silo_agent.network.proxy import NEVER, VARIABLES, chosen_proxy
from silo_agent.network.reachability import TlsFiles, clock_skew, connect, resolve, shake_hands
from silo_agent.network.transport import connected
from sparsilo.v1 import identity_pb2

LIBRARY: Final = re.compile(rb"libcrypto[\w.-]*\.(?:so|dylib|dll)[\d.]*")
SOON: Final = timedelta(days=14)
MOST_TOKENS: Final = 1 << 22
"""Of the calibration text that are counted; a plan needs far fewer."""
KEEP_MASK_BYTES: Final = 1
OPENED_BYTES: Final = 1 + 4
"""A weight in the opened sums of a votes round (up to 255 silos) and a weights round."""
RECORD_BYTES: Final = 64_000_000
"""For transcripts, ledger and audit log."""
LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999, after which datetime has none."""

FIXES: Final[Mapping[str, str]] = {
    "config": "docs/formats.md, section 8, has the fields",
    "identity": "silo-agent enroll makes the signing key, silo-agent roster pin writes the roster",
    "TLS": "name the files that silo-agent enroll made, or your own and the aggregator's authority",
    "policy": "docs/formats.md, section 12, has the fields",
    "clock": "ask the aggregator's people",
    "proxy": "give proxy or proxy_file in the config",
}
"""What to do where an error itself does not say it."""


@dataclass(frozen=True)
class Check:
    """One line. `status` is ok or failed; skipped after a failure that comes first; fact or warning where nothing was
    there to fail.
    """

    name: str
    status: str
    said: str
    error: SparsiloError | None = None


def check_agent(file: Path, now: datetime, flags: Sequence[str] = (), *, online: bool = False) -> list[Check]:
    """Every check, in the order in which a round would come to them. Raises nothing that a config can cause.

    `online` also goes the way to the aggregator, and asks it for the time. Otherwise nothing leaves this machine, but
    for a model that is named by its hub id.
    """
    try:
        config = AgentConfig.read(file, os.environ, flags)
    except SparsiloError as error:
        return [_failed("config", error), *crypto_library(Suite.DEFAULT)]
    said = f"{file}: silo {config.silo}, suite {config.suite.profile}, backend {config.backend}"
    checks = {"config": Check("config", "ok", said)}
    for name, needed, check in _Checks(config, now).steps(online):
        failed = next((each for each in needed if checks[each].status in ("failed", "skipped")), None)
        checks[name] = Check(name, "skipped", f"not tried: {failed} comes first") if failed else _checked(name, check)
    return [*checks.values(), *crypto_library(config.suite)]


class _Checks:
    """Each says what it found, or raises what a round would end with."""

    def __init__(self, config: AgentConfig, now: datetime) -> None:
        self._config, self._now = config, now
        self._weights: DenseWeights | None = None

    def steps(self, online: bool) -> Iterator[tuple[str, tuple[str, ...], Callable[[], str | Check]]]:
        """Each with its name and those that it stands on."""
        yield "identity", (), self.identity
        yield "TLS", (), self.tls
        yield "certificate", ("TLS",), self.certificate
        yield "policy", (), self.policy
        yield "model", (), self.model
        yield "model digest", ("model",), self.model_digest
        yield "device", (), self.device
        yield "calibration", (), self.calibration
        yield "state", (), self.state
        yield "disk", ("model", "state"), self.disk
        if online:
            target = self._config.aggregator
            yield "proxy", (), self.proxy
            yield "name resolution", ("proxy",), lambda: resolve(target, self._proxy)
            yield "connection", ("name resolution",), self.connection
            yield "TLS handshake", ("TLS", "connection"), self.handshake
            yield "clock", ("TLS handshake",), lambda: clock_skew(self._aggregator_time)

    def identity(self) -> str:
        config = self._config
        _, roster = read_identity(config)
        return f"{config.signing_key}: its public key is the roster's of {config.silo}, one of {len(roster)} silos"

    def tls(self) -> str:
        config = self._config
        read_tls(config, self._now)
        return f"{config.certificate}, {config.private_key}, {config.authority}: fit together and are in force"

    def certificate(self) -> str | Check:
        peer = read_peer(read_bytes(self._config.certificate))
        left = peer.end - self._now
        said = f"{(self._now - peer.start).days} days old, ends in {left.days} days, on {peer.end:%Y-%m-%d}"
        if self._config.renew_certificate:
            renewal = peer.start + (peer.end - peer.start) / 2
            return f"{said}; a running agent renews it from {renewal:%Y-%m-%d} on"
        if left < SOON:
            return Check("certificate", "warning", f"{said} (ask whoever issues it for a new one)")
        return said

    def policy(self) -> str:
        policy = Policy.read(self._config.policy)
        return f"{self._config.policy}: approval {policy.approval}, at least {policy.least_survivors} survivors"

    def model(self) -> str:
        self._weights = weights = DenseWeights.open(model_folder(self._config.model))
        tokens = len(weights.tokenizer)
        return f"{self._config.model}: {len(weights.prunable)} prunable tensors, a tokenizer of {tokens} tokens"

    def model_digest(self) -> str | Check:
        digest = trusted_digest(self._opened).hex()
        try:
            trusted = Policy.read(self._config.policy).models
        except SparsiloError:
            return Check("model digest", "fact", f"{digest}; see policy")
        if trusted is None:
            return f"{digest}: the policy trusts any model"
        if digest not in trusted:
            raise ConfigError(
                f"{self._config.policy}: models: does not list {digest}, which {self._config.model} is",
                hint="add it if that is the model that was agreed on; otherwise name another model in the config",
            )
        return f"{digest}: the policy trusts it"

    def device(self) -> str:
        device = named_device(self._config.device)
        if device.type != "cuda":
            return f"{device}: is here"
        free, total = torch.cuda.mem_get_info(device)
        said = f"{device}: {_size(free)} of {_size(total)} memory free"
        if self._weights:
            sizes = [sum(self._weight_bytes(block.prunable)) for block in self._weights.blocks]
            said += f"; the largest block's weights take {_size(max(sizes))}"
            if free < max(sizes):
                raise ConfigError(said, hint="end what else runs there, or name another device in the config")
        return said

    def calibration(self) -> str:
        file, filled, tokens = self._config.calibration, 0, 0
        for record in records(file):
            filled += bool(record)
            if self._weights and tokens < MOST_TOKENS:
                tokens += len(self._weights.tokenizer(record, verbose=False)["input_ids"])
        if not filled:
            raise CalibrationError(f"{file}: has no text", hint="give a file with text in it")
        said = f"{file}: records with text: {filled}; "
        if self._weights:
            length = usual_length(self._weights.config, None)
            counted = f"{tokens}{' or more' if tokens >= MOST_TOKENS else ''}"
            said += f"tokens: {counted}, which is {tokens // length} whole sequences of {length}; "
        return f"{said}its digest is {data_digest(file).hex()}"

    def state(self) -> str:
        state = self._config.state
        StateStore(state / STATE_FILE)
        return f"{state}: can be written; that the disk is this machine's own cannot be seen from here"

    def disk(self) -> str:
        prunable = self._opened.prunable
        weights = sum(self._opened.shape(name).numel() for name in prunable)
        pruned = sum(self._weight_bytes(prunable))
        needed = weights * (KEEP_MASK_BYTES + OPENED_BYTES) + pruned + RECORD_BYTES
        free = shutil.disk_usage(self._config.state).free
        said = (
            f"{self._config.state}: {_size(free)} free; a run writes up to {_size(needed)}: for {weights} prunable "
            f"weights {_size(weights * KEEP_MASK_BYTES)} of keep masks, {_size(pruned)} pruned, "
            f"{_size(weights * OPENED_BYTES)} of opened sums; {_size(RECORD_BYTES)} of transcripts"
        )
        if free < needed:
            raise OutputError(said, hint="make room, or name a folder on a larger disk as state in the config")
        return said

    def proxy(self) -> str:
        setting = proxy_setting(self._config.proxy, self._config.proxy_file)
        self._proxy = found = chosen_proxy(setting, self._config.aggregator, os.environ)
        if found:
            return f"{found}, from {found.origin}{', with credentials' if found.credentials else ''}"
        if setting == NEVER:
            return "none: the config says so"
        if any(os.environ.get(name, "").strip() for name in VARIABLES):
            return f"none: no_proxy in the environment covers {self._config.aggregator}"
        return "none: neither config nor environment names one"

    def connection(self) -> str:
        connect(self._config.aggregator, self._proxy).close()
        return f"{self._config.aggregator}: open{f' through {self._proxy}' if self._proxy else ''}"

    def handshake(self) -> str:
        config = self._config
        files = TlsFiles(config.certificate, config.private_key, config.authority)
        return f"{config.aggregator}: {shake_hands(config.aggregator, self._proxy, files, self._now)}"

    @property
    def _opened(self) -> DenseWeights:
        if self._weights is None:
            raise AssertionError("the model comes first")
        return self._weights

    def _weight_bytes(self, names: Sequence[str]) -> Iterator[int]:
        weights = self._opened
        return (weights.shape(name).numel() * weights.dtype(name).itemsize for name in names)

    def _aggregator_time(self) -> datetime:
        with connected(self._config, self._now) as transport:
            reply = transport.identify("Status", identity_pb2.StatusRequest(), identity_pb2.StatusReply)
        return datetime.fromtimestamp(min(reply.unix_seconds, LAST_SECOND), UTC)


def _checked(name: str, check: Callable[[], str | Check]) -> Check:
    try:
        found = check()
    except SparsiloError as error:
        return _failed(name, error)
    except OSError as error:  # a folder that cannot be made
        return _failed(name, InputError(f"{error.filename}: {error.strerror}", hint="name another in the config"))
    return found if isinstance(found, Check) else Check(name, "ok", found)


def _failed(name: str, error: SparsiloError) -> Check:
    error.hint = error.hint or FIXES.get(name, "")
    return Check(name, "failed", str(error), error)


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.0f} {units[0]}" if size >= 100 or units[0] == "bytes" else f"{size:.1f} {units[0]}"


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
