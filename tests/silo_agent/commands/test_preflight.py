"""`silo-agent preflight`: everything in order, one thing wrong at a time, and the truth about the crypto library."""

import json
import re
import shutil
import sysconfig
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cryptography
import grpc
import pytest
import yaml
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.bindings import _rust
from safetensors import safe_open

from crypto.encoding.wire import encode
from crypto.identity import Authority
from crypto.names import Suite
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.cli import cli
from silo_agent.commands.checks import model as model_checks
from silo_agent.commands.checks.crypto_library import linked_libcrypto
from silo_agent.network.proxy import EXCEPTIONS, VARIABLES
from sparsilo.v1 import identity_pb2
from support.commands import Ran, run
from support.key_files import write_key
from support.models import tiny_llama, write_text
from support.on_loopback import door, free_port, grpc_server, tinyproxy
from support.plans import signing_keys

SILO = "silo-001"
LOCAL = (
    *("config", "identity", "TLS", "certificate", "policy", "model", "model digest"),
    *("device", "calibration", "state", "disk"),
)
ONLINE = ("proxy", "name resolution", "connection", "TLS handshake", "clock")
LIBRARY = ("crypto library", "FIPS mode")
NAMES = [*LOCAL, *LIBRARY]
NEEDING_THE_MODEL = ["model digest", "disk"]
AUTHORITY = Authority("ours", datetime.now(UTC), timedelta(days=100))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "dense")


class Home:
    """An agent's folder, in order until a test changes it."""

    def __init__(self, folder: Path, model: Path, suite: Suite = Suite.DEFAULT) -> None:
        self.folder, keys, own = folder, signing_keys(3, suite), AUTHORITY.issue(SILO)
        files: dict[str, bytes] = {
            "signing_key": keys[SILO].to_bytes().hex().encode(),
            "roster": yaml.safe_dump({silo: key.public_bytes.hex() for silo, key in keys.items()}).encode(),
            "certificate": own.certificate,
            "private_key": own.private_key,
            "authority": AUTHORITY.certificate,
        }
        other = keys[next(silo for silo in keys if silo != SILO)]
        write_key(folder / "another_key", other.to_bytes().hex())
        (folder / "another_certificate").write_bytes(AUTHORITY.issue("ward-9").certificate)
        for name, content in files.items():
            write_key(folder / name, content)
        self.policy(DenseWeights.open(model))
        write_text(folder / "notes.txt", 300, seed=0)
        self.config: dict[str, Any] = {
            "silo": SILO,
            "aggregator": "127.0.0.1:9",
            "model": str(model),
            "calibration": "notes.txt",
            "state": "state",
            "suite": suite.profile,
            "policy": "policy.yaml",
            **{name: name for name in files},
        }

    def policy(self, model: DenseWeights | str | list[str]) -> None:
        """A policy that trusts this model, or says what is given."""
        trusted = [digest_of(model)] if isinstance(model, DenseWeights) else model
        (self.folder / "policy.yaml").write_text(yaml.safe_dump({"approval": "manual", "models": trusted}))

    def preflight(
        self, capsys: pytest.CaptureFixture[str], *more: object, online: bool = False, **changes: object
    ) -> Ran:
        (self.folder / "agent.yaml").write_text(yaml.safe_dump({**self.config, **changes}))
        offline = [] if online else ["--offline"]
        return run(cli, ["preflight", "--config", self.folder / "agent.yaml", *offline, *more], capsys)


def digest_of(weights: DenseWeights) -> str:
    return model_checks.trusted_digest(weights).hex()


@pytest.fixture(autouse=True)
def _no_proxy_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, model: Path) -> Home:
    return Home(tmp_path, model)


def checks(ran: Ran) -> dict[str, tuple[str, str]]:
    return {check["check"]: (check["status"], check["message"]) for check in ran.data["checks"]}


def test_all_in_order(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.preflight(capsys, "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["status"] == "done"
    found = checks(ran)
    assert list(found) == NAMES
    assert {status for status, _ in found.values()} == {"ok", "fact"}
    assert "silo silo-001, suite default" in found["config"][1]
    assert "14 prunable tensors" in found["model"][1]
    assert "records with text: 1;" in found["calibration"][1]
    assert found["policy"][1].endswith("approval manual, at least 3 survivors")
    assert re.match(r"0 days old, ends in 99 days, on \d{4}-", found["certificate"][1])
    assert (home.folder / "state" / "agent.sqlite").exists()


def test_a_line_a_check_for_a_person(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    lines = home.preflight(capsys).out.splitlines()
    assert [re.split(r"  +", line)[:2] for line in lines] == [
        ["ok" if name not in LIBRARY else "fact", name] for name in NAMES
    ]


WRONG: dict[str, tuple[dict[str, object], int, str, str]] = {
    "an unknown field": ({"sliced": 1}, 4, "config", "sliced: unknown field"),
    "no signing key": ({"signing_key": "none"}, 2, "identity", "none: cannot be read"),
    "another silo's key": ({"signing_key": "another_key"}, 2, "identity", "is not the public key of"),
    "keys of another suite": ({"suite": "fips"}, 2, "identity", "a public signing key of 32 bytes is not"),
    "a certificate that is none": ({"certificate": "roster"}, 2, "TLS", "roster: holds no PEM certificate"),
    "another's certificate": ({"certificate": "another_certificate"}, 2, "TLS", f"is for ward-9, not for {SILO}"),
    "no authority": ({"authority": "none"}, 2, "TLS", "none: cannot be read"),
    "no policy": ({"policy": "none"}, 4, "policy", "none: cannot be read"),
    "a policy that is none": ({"policy": "roster"}, 4, "policy", "unknown field"),
    "no model": ({"model": "none"}, 4, "model", "none: no such folder"),
    "no such device": ({"device": "cuda:99"}, 4, "device", "'cuda:99' is not available"),
    "no text": ({"calibration": "none.txt"}, 4, "calibration", "none.txt: No such file"),
    "text of another kind": ({"calibration": "roster"}, 4, "calibration", "neither .txt nor .jsonl"),
    "an empty text": ({"calibration": "empty.txt"}, 4, "calibration", "empty.txt: has no text"),
    "a bad last line": ({"calibration": "bad.jsonl"}, 4, "calibration", "bad.jsonl: line 2: not valid JSON"),
    "a state folder that is a file": ({"state": "roster"}, 4, "state", "roster: File exists"),
    "a state folder below a file": ({"state": "roster/state"}, 4, "state", "Not a directory"),
    "a store that is none": ({"state": "damaged"}, 4, "state", "file is not a database"),
    "a privacy ledger that is none": ({"state": "altered"}, 4, "state", "privacy-ledger.jsonl: line 1: is no JSON"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_exit_code(case: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    changes, code, name, problem = WRONG[case]
    (home.folder / "empty.txt").touch()
    (home.folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (home.folder / "damaged").mkdir()
    (home.folder / "damaged" / "agent.sqlite").write_text("not a database, but long enough to be read as one" * 9)
    (home.folder / "altered").mkdir()
    (home.folder / "altered" / "privacy-ledger.jsonl").write_text("altered\n")
    ran = home.preflight(capsys, "--output", "json", **changes)
    assert ran.code == code
    assert ran.err.count("\n") == 1
    assert problem in ran.err
    found = checks(ran)
    assert problem in found[name][1]
    assert [check for check, (status, _) in found.items() if status == "failed"] == [name]
    assert list(found) == (NAMES if name != "config" else ["config", *LIBRARY])
    skipped = {"TLS": ["certificate"], "model": NEEDING_THE_MODEL, "state": ["disk"]}.get(name, [])
    not_tried = {check: said for check, (status, said) in found.items() if status == "skipped"}
    assert not_tried == dict.fromkeys(skipped, f"not tried: {name} comes first")
    error = json.loads(ran.out)["error"]
    assert found[name][1] == f"{error['message']} ({error['hint']})"
    assert error["hint"]


def test_the_first_of_several_failures_gives_the_exit_code(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ran = home.preflight(capsys, calibration="none.txt", roster="none")
    assert ran.code == 2
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("failed")] == [
        "identity",
        "calibration",
    ]


# The model that the policy trusts


def test_a_model_that_the_policy_does_not_list(home: Home, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.policy(["0" * 64])
    ran = home.preflight(capsys, "--output", "json")
    status, said = checks(ran)["model digest"]
    assert (ran.code, status) == (4, "failed")
    assert f"models: does not list {digest_of(DenseWeights.open(model))}, which" in said
    assert "add it if" in said


def test_a_policy_that_trusts_any_model_or_cannot_be_read(
    home: Home, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = digest_of(DenseWeights.open(model))
    assert checks(home.preflight(capsys, "--output", "json"))["model digest"] == (
        "ok",
        f"{digest}: the policy trusts it",
    )
    home.policy("any")
    said = checks(home.preflight(capsys, "--output", "json"))["model digest"]
    assert said == ("ok", f"{digest}: the policy trusts any model")
    home.policy("all")  # whose writer wants to know what to write
    found = checks(home.preflight(capsys, "--output", "json"))
    assert found["policy"][0] == "failed"
    assert found["model digest"] == ("fact", f"{digest}; see policy")


# Disk, device, text, certificate


def sizes(model: Path) -> tuple[int, int]:
    """How many prunable weights, and their bytes, by the files alone: matrices within the blocks."""
    count = taken = 0
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_tensor(name)
            if ".layers." in name and tensor.ndim == 2:
                count, taken = count + tensor.numel(), taken + tensor.nbytes
    return count, taken


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("short", [0, 1])
def test_the_disk_has_room_for_a_run(
    short: int, home: Home, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count, taken = sizes(model)
    needed = 64_000_000 + 3 * (count + taken) + 5 * count  # its own model, everybody's, and nobody's
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1 << 40, 0, needed - short))
    ran = home.preflight(capsys, "--output", "json")
    status, said = checks(ran)["disk"]
    assert (ran.code, status) == ((4, "failed") if short else (0, "ok"))
    shown = f"{needed / 1e6:.1f} MB"
    assert f"state: {shown} free; a run writes up to {shown}: for {count} prunable weights" in said
    assert ("(make room" in said) == bool(short)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (9_870_000_000, "9.9 GB"),
        (5 * 10**15, "5000000 GB"),
    ],
)
def test_sizes_are_short(size: int, shown: str) -> None:
    assert model_checks._size(size) == shown


@pytest.mark.parametrize("free", [10**9, 1000])
def test_a_gpus_memory(
    free: int, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "named_device", model_checks.torch.device)
    monkeypatch.setattr(model_checks.torch.cuda, "mem_get_info", lambda device: (free, 80 * 10**9))
    status, said = checks(home.preflight(capsys, "--output", "json", device="cuda"))["device"]
    assert status == ("ok" if free > 1000 else "failed")
    assert (
        f"cuda: {'1.0 GB' if free > 1000 else '1.0 kB'} of 80.0 GB memory free; the largest block's weights take"
        in said
    )
    assert ("name another device" in said) == (free == 1000)


def test_the_texts_tokens_and_whole_sequences(
    home: Home, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = DenseWeights.open(model)
    length = min(2048, weights.config.max_position_embeddings)
    texts = ["one two three " * 40 * at for at in range(3)]
    (home.folder / "n.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokens = sum(len(weights.tokenizer(text)["input_ids"]) for text in texts)
    assert tokens >= length
    said = checks(home.preflight(capsys, "--output", "json", calibration="n.jsonl"))["calibration"][1]
    assert f"records with text: 2; tokens: {tokens}, which is {tokens // length} whole sequences of {length}; " in said
    monkeypatch.setattr(model_checks, "MOST_TOKENS", 10)
    said = checks(home.preflight(capsys, "--output", "json", calibration="n.jsonl"))["calibration"][1]
    assert " or more, which is" in said
    assert "records with text: 2" in said


@pytest.mark.parametrize(("days", "renews", "status"), [(13, False, "warning"), (15, False, "ok"), (13, True, "ok")])
def test_a_certificate_that_ends_soon(
    days: int, renews: bool, status: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    own = AUTHORITY.issue(SILO, now=now - timedelta(days=5), lifetime=timedelta(days=days + 5, hours=1))
    (home.folder / "certificate").write_bytes(own.certificate)
    write_key(home.folder / "private_key", own.private_key)
    ran = home.preflight(capsys, "--output", "json", renew_certificate=renews)
    found, said = checks(ran)["certificate"]
    assert (ran.code, found) == (0, status)
    assert said.startswith(f"5 days old, ends in {days} days, on {now + timedelta(days=days, hours=1):%Y-%m-%d}")
    assert ("ask whoever issues it" in said) == (status == "warning")
    assert ("renews it from" in said) == renews


# The way to the aggregator


@contextmanager
def aggregator(answer: Callable[[Any], bytes]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and where connections to it came from."""
    own = AUTHORITY.issue("aggregator", ("127.0.0.1",))
    with grpc_server(own, AUTHORITY.certificate, answer) as port, door(port) as (way, callers):
        yield f"127.0.0.1:{way}", callers


def told(ahead: int = 0) -> Callable[[Any], bytes]:
    """Answers Identity.Status by a clock that is so many seconds ahead."""

    def answer(context: Any) -> bytes:
        return encode(identity_pb2.StatusReply(unix_seconds=int(datetime.now(UTC).timestamp()) + ahead, version="1"))

    return answer


def online(home: Home, capsys: pytest.CaptureFixture[str], **changes: object) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and the lines that are about the network."""
    ran = home.preflight(capsys, "--output", "json", online=True, **changes)
    assert "s3cret" not in ran.out + ran.err
    found = checks(ran)
    assert list(found) == [*LOCAL, *ONLINE, *LIBRARY]
    return ran.code, {name: found[name] for name in ONLINE}


def test_the_way_is_open(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with aggregator(told()) as (address, callers):
        code, found = online(home, capsys, aggregator=address)
        assert set(callers) == {"127.0.0.1"}
        callers.clear()
        home.preflight(capsys, aggregator=address)
        assert callers == [], "offline"
    assert code == 0
    assert {status for status, _ in found.values()} == {"ok"}
    assert found["proxy"][1] == "none: neither config nor environment names one"
    assert found["name resolution"][1] == "127.0.0.1 is 127.0.0.1"
    assert found["connection"][1] == f"{address}: open"
    assert "TLSv1.3, the aggregator's certificate is from 'ours'" in found["TLS handshake"][1]
    assert re.match(r"this machine's clock is [01] seconds", found["clock"][1])


@pytest.mark.parts
@pytest.mark.parametrize("origin", ["https_proxy", "HTTPS_PROXY", "the config's proxy", "a file"])
def test_the_way_through_a_proxy(
    origin: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with aggregator(told()) as (address, callers), tinyproxy(tmp_path, "BasicAuth silo s3cret") as proxy:
        url, changes = proxy.url.replace("//", "//silo:s3cret@"), {}
        if origin == "a file":
            (home.folder / "proxy_url").write_text(f"{url}\n")
            (home.folder / "proxy_url").chmod(0o600)
            changes = {"proxy_file": "proxy_url"}
        elif origin == "the config's proxy":
            changes = {"proxy": url}
        else:
            monkeypatch.setenv(origin, url)
        code, found = online(home, capsys, aggregator=address, **changes)
        assert (code, {status for status, _ in found.values()}) == (0, {"ok"}), found
        assert set(callers) == {"127.0.0.2"}
        assert proxy.asked_for == {address}
        said = "the config's proxy" if changes else origin
        assert found["proxy"][1] == f"127.0.0.1:{proxy.port}, from {said}, with credentials"
        assert found["name resolution"][1].endswith("; the proxy resolves 127.0.0.1")
        assert found["connection"][1] == f"{address}: open through 127.0.0.1:{proxy.port}"


def test_why_there_is_no_proxy(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with aggregator(told()) as (address, _):
        code, found = online(home, capsys, aggregator=address, proxy="none")
        assert (code, found["proxy"][1]) == (0, "none: the config says so")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        code, found = online(home, capsys, aggregator=address)
        assert (code, found["proxy"][1]) == (0, f"none: no_proxy in the environment covers {address}")


def test_a_proxy_that_is_down_ends_the_way(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{dead}")
    with aggregator(told()) as (address, callers):
        code, found = online(home, capsys, aggregator=address)
        assert callers == []
    assert code == 2
    assert [status for status, _ in found.values()] == ["ok", "ok", "failed", "skipped", "skipped"]
    assert f"the proxy 127.0.0.1:{dead}: refuses connections (check the port in HTTPS_PROXY" in found["connection"][1]


@pytest.mark.parametrize("field", ["proxy", "proxy_file"])
def test_a_proxy_that_cannot_be_used(field: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.folder / "proxy_url").write_text("https://silo:s3cret@proxy:3128")
    (home.folder / "proxy_url").chmod(0o600)
    value = "socks5://silo:s3cret@proxy:3128" if field == "proxy" else "proxy_url"
    code, found = online(home, capsys, **{field: value})
    assert code == 4
    assert [status for status, _ in found.values()] == ["failed"] + ["skipped"] * 4
    assert "cannot be used" in found["proxy"][1]
    code, found = online(home, capsys, proxy_file="none")
    assert code == 4
    assert "proxy_file: cannot be read (give proxy" in found["proxy"][1]
    (home.folder / "proxy_url").chmod(0o604)
    code, found = online(home, capsys, proxy_file="proxy_url")
    assert code == 4
    assert "proxy_file: is open to others" in found["proxy"][1]


def test_an_intercepting_proxy(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    inspecting = Authority("Corp TLS Inspection CA", datetime.now(UTC), timedelta(days=1))
    own = inspecting.issue("aggregator", ("127.0.0.1",))
    with grpc_server(own, inspecting.certificate) as port:
        code, found = online(home, capsys, aggregator=f"127.0.0.1:{port}")
    assert code == 2
    assert [status for status, _ in found.values()] == ["ok", "ok", "ok", "failed", "skipped"]
    assert found["TLS handshake"][1].startswith(
        "an intercepting proxy: the certificate shown for 127.0.0.1 was issued by "
    )


@pytest.mark.parametrize("ahead", [310, -310, 10**15])
def test_a_clock_that_is_wrong(ahead: int, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with aggregator(told(ahead)) as (address, _):
        code, found = online(home, capsys, aggregator=address)
    assert code == 2
    assert found["clock"][0] == "failed"
    assert re.search(f"seconds {'behind' if ahead > 0 else 'ahead of'} the aggregator's .set this", found["clock"][1])


def test_an_aggregator_that_does_not_know_the_silo(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(context: Any) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "'silo-001' is not enrolled")
        raise AssertionError

    with aggregator(refuse) as (address, _):
        code, found = online(home, capsys, aggregator=address)
    assert code == 2
    assert found["clock"] == (
        "failed",
        "the aggregator refuses this silo: 'silo-001' is not enrolled (ask the aggregator's people)",
    )


def test_tls_files_that_do_not_fit_end_the_way_before_the_handshake(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with aggregator(told()) as (address, _):
        code, found = online(home, capsys, aggregator=address, certificate="another_certificate")
    assert code == 2
    assert found["connection"][0] == "ok"
    assert found["TLS handshake"] == ("skipped", "not tried: TLS comes first")
    assert found["clock"] == ("skipped", "not tried: TLS handshake comes first")


# The crypto library


def test_a_suite_of_approved_algorithms_is_no_validated_module(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Home(tmp_path, model, Suite.FIPS).preflight(capsys, "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    found = checks(ran)
    version = backend.openssl_version_text()
    assert found["crypto library"][0] == "fact"
    assert found["crypto library"][1].startswith(f"cryptography {cryptography.__version__}, {version} ")
    status, said = found["FIPS mode"]
    assert status == "warning"
    assert said.startswith("off: not a validated ")
    assert version in said
    assert "Approved algorithms do not make a module validated" in said


def test_fips_mode_is_on_where_the_library_says_so(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_fips_enabled", True)
    status, said = checks(Home(tmp_path, model, Suite.FIPS).preflight(capsys, "--output", "json"))["FIPS mode"]
    assert (status, said[:3]) == ("fact", "on:")
    assert "its certificate says, not this program" in said


def test_whether_openssl_is_inside_the_module_or_shared() -> None:
    """Python's own ssl module links the shared library; the wheel that tests install has OpenSSL inside."""
    shared = list(Path(sysconfig.get_path("platstdlib")).glob("lib-dynload/_ssl*.so"))
    assert [linked_libcrypto(file)[:12] for file in shared] == ["libcrypto.so"] * len(shared)
    assert linked_libcrypto(Path(_rust.__file__)) == ""


@pytest.mark.parametrize(
    "name",
    ["libcrypto.so.3", "libcrypto.so.1.1", "libcrypto-1e8e2a3b.so.3", "libcrypto.3.dylib", "libcrypto-3-x64.dll"],
)
def test_the_shared_library_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(b"\x7fELF\0libc.so.6\0" + name.encode() + b"\0crypto\0libcrypto\0")
    assert linked_libcrypto(tmp_path / "module") == name
