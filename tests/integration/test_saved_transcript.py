"""What `aggregator local --save-transcript` leaves is verified by the commands that a silo has, each agent's own state
with it.
"""

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from crypto.names import Suite
from silo_agent.cli import cli
from support.commands import Ran, local, run
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32)
SILOS = ["ward-0", "ward-1", "ward-2"]


def agent(command: str, capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    return run(cli, [command, *arguments, "--output", "json"], capsys)


@pytest.mark.parametrize("suite", [Suite.DEFAULT, pytest.param(Suite.FIPS, marks=pytest.mark.slow)])
def test_a_rehearsal_can_be_verified_by_every_silo_of_it(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(tmp_path / "dense")
    files = [write_text(tmp_path / f"{silo}.txt", 1200, seed=seed) for seed, silo in enumerate(SILOS)]
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    monkeypatch.setattr("aggregator.local._work_folder", lambda _: nullcontext(str(work)))  # the agents' state stays
    ran = local(model, files, out, capsys, *SHAPE, "--save-transcript", "--suite", suite.profile)
    assert (ran.code, ran.err) == (0, "")

    folder = out / "transcript"
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["transcript", "roster.yaml", "opened_sum.words", *(f"{silo}.words" for silo in SILOS)]
    )
    homes = [work / "silos" / silo for silo in SILOS]
    assert {(home / "roster.yaml").read_text() for home in homes} == {(folder / "roster.yaml").read_text()}
    for home in homes:
        (own,) = (home / "state").glob("runs/*/*.transcript")
        given = ("--roster", home / "roster.yaml", "--suite", suite.profile, "--own", own)
        checked = agent("verify", capsys, folder, *given)
        assert (checked.code, checked.err) == (0, "")
        assert own.stem == checked.data["round"]
        assert checked.data["plan"] == ran.data["plan_digest"]
        assert checked.data["survivors"] == checked.data["signed"]["verdict"] == SILOS
        assert checked.data["recomputed"] == checked.data["chunks"] > 0

        (released,) = agent("ledger", capsys, "--config", home / "agent.yaml").data["releases"]
        assert (released["round"], released["kind"]) == (checked.data["round"], "votes")
        assert released["silos"] == released["survivors"] == SILOS
        before = agent("preflight", capsys, "--offline", "--config", home / "agent.yaml")
        assert (before.code, before.err) == (0, "")

    words = folder / "ward-1.words"
    content = bytearray(words.read_bytes())
    content[len(content) // 2] ^= 4
    words.write_bytes(content)
    checked = agent("verify", capsys, folder, *given)
    assert (checked.code, f"{words}: is not what ward-1 signed" in checked.err) == (1, True)
    pinned = yaml.safe_load((folder / "roster.yaml").read_text())
    pinned["ward-0"] = pinned["ward-1"]
    (tmp_path / "roster.yaml").write_text(yaml.safe_dump(pinned))
    checked = agent("verify", capsys, folder, "--roster", tmp_path / "roster.yaml", "--suite", suite.profile)
    assert (checked.code, "step 2, roster" in checked.err) == (2, True)
