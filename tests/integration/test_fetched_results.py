"""The result of a deployed run at its silos: fetched by command and by agents that stay, verified, and loaded."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from silo_agent.checkpoint.tensor_files import read_tensor_file
from silo_agent.cli import cli
from silo_agent.results.manifest import MANIFEST_FILE, Manifest
from support.commands import run
from support.deployment import Deployment, until


@pytest.mark.slow
def test_every_silo_has_the_model_and_no_silo_takes_another(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = deployment.serve()
    deployment.join(fetch_results="results")
    name = deployment.submit(sparsity_ratio=0.5, preparation_seconds=600)
    assert deployment.wait(name).code == 0, server.said
    result = tmp_path / "state/runs" / name / "result"

    for silo in deployment.silos:  # by themselves
        own = tmp_path / silo / "results" / name
        until(lambda own=own: own.exists())
        assert AutoModelForCausalLM.from_pretrained(own / "model").num_parameters() > 0
        weights = "model/model.safetensors"
        assert (own / weights).read_bytes() == (result / weights).read_bytes()
        until(lambda silo=silo: "result_verified" in (tmp_path / silo / "state/audit.jsonl").read_text())
        deployment.agents[silo].end()

    listed = deployment.silo("a", "result", "list", "--output", "json").data["results"]
    assert [row["run"] for row in listed] == [name]
    shown = deployment.silo("a", "result", "list")
    assert (shown.code, shown.out.splitlines()[-1]) == (0, "results: 1")
    out = tmp_path / "fetched"
    fetched = deployment.silo("a", "result", "fetch", name[:6], "--out", out, "--with-words", "--output", "json")
    assert (fetched.code, fetched.data["folder"]) == (0, str(out / name)), fetched.err
    given = ("--roster", tmp_path / "a/roster.yaml", "--model", out / name / "model", "--dense", deployment.model)
    verified = run(cli, ["verify", out / name, *given], capsys)
    assert (verified.code, "follows from these sums, byte for byte" in verified.out) == (0, True), verified.err
    assert deployment.silo("a", "result", "fetch", "ffff", "--out", out).code == 4

    exported = tmp_path / "exported"
    copied = deployment.aggregator("result", "export", name, "--out", exported, "--output", "json")
    assert copied.code == 0, copied.err
    assert Manifest.decode((exported / MANIFEST_FILE).read_bytes()).digest.hex() == copied.data["manifest"]
    assert run(cli, ["verify", exported, *given], capsys).code == 0

    # An aggregator that alters the model, and lists what it altered.
    file = result / "model/model.safetensors"
    tensor, stored = next(iter(read_tensor_file(file).tensors.items()))
    content = bytearray(file.read_bytes())
    content[stored.start] ^= 1
    file.write_bytes(content)
    again = deployment.aggregator("result", "export", name, "--out", tmp_path / "again")
    assert (again.code, "is not what was published" in again.err) == (4, True)
    refused = deployment.silo("b", "result", "fetch", name, "--out", out / "b")
    assert (refused.code, "serves another model.safetensors than it lists" in refused.err) == (1, True)
    plan = bytes.fromhex(json.loads((result / "report.json").read_text())["plan_digest"])
    (result / MANIFEST_FILE).write_bytes(Manifest.of_folder(plan, result).encoded)
    server.end()
    deployment.serve()
    refused = deployment.silo("b", "result", "fetch", name, "--out", out / "b")
    assert (refused.code, f"tensor {tensor}: is not what the opened sums make of it" in refused.err) == (1, True)
    assert not (out / "b" / name).exists()


@pytest.mark.slow
def test_without_transcripts_a_result_is_not_listed_and_can_be_exported(deployment: Deployment, tmp_path: Path) -> None:
    deployment.serve()
    deployment.join()
    name = deployment.submit(sparsity_ratio=0.5, preparation_seconds=600, save_transcript=False)
    assert deployment.wait(name).code == 0
    assert deployment.silo("a", "result", "list", "--output", "json").data["results"] == []
    assert deployment.aggregator("result", "export", name, "--out", tmp_path / "exported").code == 0
    assert Manifest.decode((tmp_path / "exported" / MANIFEST_FILE).read_bytes()).files
