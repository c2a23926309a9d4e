"""`config show`, `support-bundle` and `completion`: what takes effect is shown, what is secret is not."""

import json
import tarfile
from pathlib import Path

import pytest
import yaml

from aggregator.cli import cli as aggregator
from silo_agent.cli import cli
from support.commands import run

PATHS = ("model", "calibration", "state", "signing_key", "roster", "certificate", "private_key", "authority", "policy")
SECRET = "5ecre7"  # noqa: S105 - a test's own


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "agent.yaml"
    given = {"silo": "ward-1", "aggregator": "host:1", **{name: name for name in PATHS}, "metrics_port": 9000}
    file.write_text(yaml.safe_dump({**given, "proxy": f"http://me:{SECRET}@proxy:3128"}))
    for name in ("signing_key", "private_key", "calibration", "certificate"):
        (tmp_path / name).write_text(SECRET)
    (tmp_path / "policy").write_text("approval: manual\nmodels: any\n")
    (tmp_path / "state").mkdir()
    lines = [json.dumps({"sequence": n, "event": "approved", "previous": ""}) for n in range(1, 301)]
    (tmp_path / "state" / "audit.jsonl").write_text("\n".join(lines) + "\n")
    return file


def test_the_origin_of_each_value_is_shown(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSILO_SILO", "ward-2")
    monkeypatch.setenv("SPARSILO_METRICS_PORT", "9001")
    arguments = ["config", "show", "--config", config, "--set", "metrics_port=9002", "--origin"]
    data = run(cli, [*arguments, "--output", "json"], capsys).data
    assert data["silo"] == {"value": "ward-2", "origin": "SPARSILO_SILO"}
    assert data["metrics_port"] == {"value": "9002", "origin": "--set"}
    assert data["aggregator"] == {"value": "host:1", "origin": str(config)}
    assert data["reconnect_seconds"] == {"value": "60", "origin": "default"}
    table = run(cli, arguments, capsys)
    assert f"{config}" in next(line for line in table.out.splitlines() if line.startswith("aggregator"))
    plain = run(cli, arguments[:-1], capsys)
    assert str(config) not in plain.out
    assert SECRET not in table.out + plain.out + json.dumps(data)
    assert "http://...@proxy:3128" in plain.out


def test_the_config_may_be_named_by_the_environment(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSILO_CONFIG", str(config))
    assert run(cli, ["config", "show"], capsys).code == 0


def test_an_aggregators_config_is_shown_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "aggregator.yaml"
    file.write_text("public_address: host:443\nmodel: dense\nstate: state\n")
    ran = run(aggregator, ["config", "show", "--config", file, "--origin", "--output", "json"], capsys)
    assert ran.data["address"] == {"value": "0.0.0.0:8443", "origin": "default"}
    file.write_text("public_address: host\nmodel: dense\nstate: state\n")
    ran = run(aggregator, ["silos", "list", "--config", file], capsys)
    assert (ran.code, "public_address: must be host:port" in ran.err) == (4, True)


def test_a_support_bundle_has_no_secret_in_it(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle.tar.gz"
    ran = run(cli, ["support-bundle", "--config", config, "--out", out], capsys)
    assert ran.code == 0, ran.err
    with tarfile.open(out) as bundle:
        content = {member.name: (bundle.extractfile(member) or out.open("rb")).read().decode() for member in bundle}
    assert set(content) == {"versions.json", "config.json", "policy.yaml", "preflight.json", "audit-tail.jsonl"}
    assert SECRET not in "".join(content.values())
    assert json.loads(content["config.json"])["silo"]["value"] == "ward-1"
    assert "torch" in json.loads(content["versions.json"])
    assert {"check", "status", "message"} == set(json.loads(content["preflight.json"])[0])
    events = [json.loads(line)["sequence"] for line in content["audit-tail.jsonl"].splitlines()]
    assert events == list(range(101, 301))
    again = run(cli, ["support-bundle", "--config", config, "--out", out], capsys)
    assert (again.code, "exists" in again.err) == (4, True)


UNUSABLE = (
    f"http://me:{SECRET}@pro@xy:3128/x",
    f"http://me:{SECRET}/more@proxy:3128",
    f"http://me:{SECRET}?@proxy:3128",
    f"http://me:{SECRET}#@proxy:3128",
    f"http://me:pass {SECRET}@proxy:3128",
    f"http://me:{SECRET}",
    f"me:{SECRET}@proxy:3128",
    f"socks5://me:{SECRET}@proxy:1080",
    f"http://me:{SECRET}@proxy",
)


@pytest.mark.parametrize("url", UNUSABLE)
@pytest.mark.parametrize("field", ["proxy", "proxy_file"])
def test_nothing_of_a_proxy_that_is_not_understood_is_shown(
    field: str, url: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where somebody took proxy_file for the field of the URL, neither."""
    given = yaml.safe_load(config.read_text())
    del given["proxy"]
    config.write_text(yaml.safe_dump({**given, field: url}))
    bundle, shown = tmp_path / "bundle.tar.gz", ""
    for arguments in (
        ["config", "show", "--origin"],
        ["config", "show", "--output", "json"],
        ["run"],
        ["preflight", "--output", "json"],
        ["roster", "show"],
        ["config", "show", "--set", url],
    ):
        ran = run(cli, [*arguments, "--config", config], capsys)
        shown += ran.out + ran.err
    assert run(cli, ["support-bundle", "--config", config, "--out", bundle], capsys).code == 0
    with tarfile.open(bundle) as opened:
        for member in opened:
            content = opened.extractfile(member)
            assert content is not None
            shown += content.read().decode()
    assert SECRET not in shown
    assert "not shown" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("none", "none"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        (f"http://me:{SECRET}@p@proxy:3128/", "http://...@proxy:3128"),
    ],
)
def test_what_is_known_of_a_proxy_is_shown(
    url: str, shown: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "proxy": url}))
    data = run(cli, ["config", "show", "--config", config, "--output", "json"], capsys).data
    assert data["proxy"]["value"] == shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program_and_what_it_reads(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, variable in ((cli, "_SILO_AGENT_COMPLETE"), (aggregator, "_AGGREGATOR_COMPLETE")):
        assert variable in run(command, ["completion", shell], capsys).out
