"""`silo-agent`: prune locally, or take part in a run."""

import logging
import os
import signal
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import sleep
from typing import Any, Final

import click

from crypto.errors import ConfigError, OutputError
from crypto.names import Allocation, ComparisonGroup, Pruner, Suite
from crypto.plan import OWN_GROUPS
from crypto.pruning.owl import owl_ratios
from crypto.pruning.sparsity import Pattern, Sparsity, parse_ratio
from silo_agent.commands import approval as cli_approval
from silo_agent.commands import configuration as cli_config
from silo_agent.commands import identity as cli_identity
from silo_agent.host.terminal import (
    FILE,
    LOG_FORMAT,
    ProgressBars,
    completion_command,
    config_options,
    described,
    failing_as,
    named,
    output_option,
    pattern_option,
    print_envelope,
    print_fields,
    pruner_option,
    ratio_option,
    run_command,
    suite_option,
    user,
)

ROSTER_SECONDS: Final = 2.0
"""How often an agent without a roster looks for one."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsilo")
def cli() -> None:
    """One silo's side of Sparsilo: your text stays here, only masked integers leave."""


for _command in (
    *(cli_identity.enroll, cli_identity.roster, cli_approval.pending, cli_approval.approve, cli_approval.reject),
    *(cli_approval.audit, cli_config.config, cli_config.support_bundle, completion_command("silo-agent", cli)),
):
    cli.add_command(_command)


@cli.command()
@click.option("--model", required=True, help="Folder of the dense model, or its hub id.")
@click.option(
    "--calibration",
    help="Calibration text, .txt or .jsonl, or self: text that the model writes, which takes the whole model once a "
    "token. Magnitude alone needs none.",
)
@click.option("--out", required=True, type=FILE, help="File to write: bool tensors, True = kept.")
@click.option("--save-weights", type=FILE, help="File to write: the pruned weights themselves.")
@pruner_option
@ratio_option
@pattern_option
@click.option(
    "--comparison-group",
    type=named(ComparisonGroup),
    help="Weights whose scores are compared with each other; layer is one weight matrix.  "
    "[default: the pruner's own, as silos of a run use: row for wanda, layer for the others]",
)
@click.option(
    "--allocation",
    type=named(Allocation),
    default=Allocation.UNIFORM.value,
    show_default=True,
    help="owl: blocks with more outlying weights lose fewer.",
)
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Calibration sequences.")
@click.option(
    "--sequence-length", type=click.IntRange(2), help="Tokens a sequence.  [default: 2048 or the model's most]"
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
def prune(
    model: str,
    calibration: str | None,
    out: Path,
    save_weights: Path | None,
    pruner: str,
    sparsity_ratio: str | None,
    pattern: str | None,
    comparison_group: str | None,
    allocation: str,
    samples: int,
    sequence_length: int | None,
    device: str,
) -> None:
    """Prune a model with local text, and write its keep masks.

    Nothing leaves this machine; a hub id is the only reason to use the network.

    \b
    Examples:
      silo-agent prune --model llama --calibration notes.txt --out keep_mask.safetensors --sparsity-ratio 0.6
      silo-agent prune --model llama --calibration notes.txt --out keep_mask.safetensors --pruner sparsegpt \\
        --pattern 2:4 --save-weights pruned.safetensors
    """
    owl = allocation == Allocation.OWL
    if pattern is not None and (sparsity_ratio is not None or comparison_group is not None or owl):
        raise ConfigError(
            "--pattern says how many weights of which group are kept",
            hint="leave out --sparsity-ratio, --comparison-group and --allocation owl, or --pattern",
        )
    ratio = "0.5" if sparsity_ratio is None else sparsity_ratio
    target = parse_ratio(ratio) if pattern is None else Pattern.parse(pattern)
    for file in filter(None, (out, save_weights)):
        if file.exists() or not file.parent.is_dir():
            raise OutputError(f"{file}: exists, or its folder does not", hint="name a new file in an existing folder")
    from silo_agent.model.calibration import read_sequences, usual_length
    from silo_agent.model.dense_weights import DenseWeights
    from silo_agent.model.device import named_device
    from silo_agent.model.model_folder import model_folder
    from silo_agent.model.self_text import self_sequences
    from silo_agent.pruning.allocation import outlier_counts
    from silo_agent.pruning.prune import prune_blocks, with_weights, write_keep_masks, write_pruned
    from silo_agent.pruning.pruners import method

    chosen = method(Pruner(pruner))
    group = ComparisonGroup(comparison_group) if comparison_group else OWN_GROUPS[Pruner(pruner)]
    where = named_device(device)
    weights = DenseWeights.open(model_folder(model))
    with ProgressBars() as progress:
        sequences: Any = ()
        if chosen.STATISTIC or owl:
            length = usual_length(weights.config, sequence_length)
            if calibration is None:
                raise ConfigError(
                    f"--calibration is missing, which {pruner if chosen.STATISTIC else allocation} needs",
                    hint="name a file of text, or give self",
                )
            if calibration == "self":
                sequences = self_sequences(
                    weights,
                    samples=samples,
                    sequence_length=length,
                    device=where,
                    progress=lambda done, total: progress("writing calibration text", done, total),
                )
            else:
                file = Path(calibration)
                sequences, _ = read_sequences(file, weights.tokenizer, samples=samples, sequence_length=length)
        sparsities = [Sparsity(target, group)] * len(weights.blocks)
        if owl and isinstance(target, Decimal):
            sizes = [sum(weights.shape(name).numel() for name in block.prunable) for block in weights.blocks]
            ratios = owl_ratios(outlier_counts(weights, sequences, device=where), sizes, target)
            sparsities = [Sparsity(ratio, group) for ratio in ratios]
        pruned = prune_blocks(
            weights,
            sequences,
            pruner=Pruner(pruner),
            sparsity=lambda block: sparsities[block.index],
            device=where,
            progress=lambda done, total: progress("pruning blocks", done, total),
        )
        if save_weights is None:
            write_keep_masks(out, ((each.name, each.keep) for each in pruned))
        else:
            write_pruned(out, save_weights, with_weights(pruned, weights))
    said = pattern or f"sparsity ratio {ratio}"
    click.echo(f"{out}: keep masks of {len(weights.prunable)} weights, {pruner} at {said}", err=True)


@cli.command()
@config_options
def run(config: Path, settings: tuple[str, ...]) -> None:
    """Take part in runs.

    Dials the aggregator, checks every plan against this silo's policy and ledger, prunes, and sends masked words. With
    `stay: true` in the config it goes on to the next round, whatever became of one, until SIGTERM.
    """
    from prometheus_client import CollectorRegistry

    from silo_agent.config import AgentConfig, proxy_setting
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.host.health import serve_health
    from silo_agent.host.metrics import SiloMetrics
    from silo_agent.identity.own_certificate import OwnCertificate
    from silo_agent.network.proxy import chosen_proxy
    from silo_agent.network.transport import Transport
    from silo_agent.rounds.round_driver import Agent

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    log = logging.getLogger(__name__)
    agent_config = AgentConfig.read(config, os.environ, settings)
    registry = CollectorRegistry()
    metrics = SiloMetrics(registry)
    ready = False
    port = serve_health(registry, lambda: ready, agent_config.metrics_host, agent_config.metrics_port)
    log.info("metrics on http://%s:%d/metrics", agent_config.metrics_host, port)
    certificate = OwnCertificate(agent_config)
    own, authority = certificate.read(datetime.now(UTC))
    if agent_config.stay and not agent_config.roster.exists():
        log.warning("%s: no roster is pinned yet: silo-agent roster show, then pin", agent_config.roster)
        while not agent_config.roster.exists():
            sleep(ROSTER_SECONDS)
    metrics.roster_pinned.set(1)
    transport = Transport(
        agent_config.aggregator,
        own,
        authority,
        metrics,
        proxy=chosen_proxy(
            proxy_setting(agent_config.proxy, agent_config.proxy_file), agent_config.aggregator, os.environ
        ),
        reconnect_seconds=agent_config.reconnect_seconds,
    )

    def keep_certificate_fresh() -> None:
        if certificate.keep_fresh(transport, datetime.now(UTC)):
            until = f"{certificate.expiry():%Y-%m-%dT%H:%M:%SZ}"
            log.info("%s: a new certificate, until %s", agent_config.certificate, until)
            AuditLog(agent_config.state).append("certificate_renewed", "agent", datetime.now(UTC), until=until)
        metrics.certificate_expiry.set(certificate.expiry().timestamp())

    keep_certificate_fresh()
    with ProgressBars() as progress:
        agent = Agent(agent_config, transport, metrics, progress, keep_certificate_fresh)
        ready = True
        try:
            agent.run()
        finally:
            transport.close()


@cli.command()
@click.argument("folder", type=FILE, metavar="TRANSCRIPT_FOLDER")
@click.option("--roster", required=True, type=FILE, help="Your pinned roster: all that is proven rests on its keys.")
@suite_option
@click.option("--own", type=FILE, help="state/ROUND.transcript, which your agent wrote: must be the same round.")
@click.option("--signatures-only", is_flag=True, help="Leave the words alone, where they are not at hand.")
@output_option
def verify(folder: Path, roster: Path, suite: str, own: Path | None, signatures_only: bool, output: str) -> None:
    """Check a round after it is over.

    Nobody who ran it need be trusted. Every signature is verified under your pinned roster, and the opened sum is
    computed anew from the masked words that the silos signed. No secret and no network is needed. TRANSCRIPT_FOLDER
    is what `aggregator local --save-transcript` writes; a roster.yaml in it is its maker's word, so compare it with
    yours. What cannot be shown: that a silo's words said the truth about its text.

    \b
    Example:
      silo-agent verify pruned/transcript --roster roster.yaml --own state/0a1b2c.transcript
    """
    from silo_agent.config import read_roster
    from silo_agent.rounds.verify import verify_folder

    with failing_as(output), ProgressBars() as progress:
        pinned = read_roster(roster, Suite[suite.upper()])
        found = verify_folder(folder, pinned, own, not signatures_only, progress)
    if output == "json":
        print_envelope("done", data=found)
        return
    signed = {f"{what} signed by": ", ".join(silos) for what, silos in found["signed"].items()}
    words = f"{found['recomputed']} of {found['chunks']}, from the words that the survivors signed"
    print_fields(
        {
            **{name: found[name] for name in ("round", "plan", "release")},
            "starts from": found["input"] or "the dense model",
            "cohort": ", ".join(found["cohort"]) or "the whole roster",
            "survivors": ", ".join(found["survivors"]),
            "dropped": ", ".join(found["dropped"]) or "nobody",
            **signed,
            "own transcript": "the same, byte for byte" if found["same_as_own"] else "not compared: no --own",
            "chunks recomputed": "none: --signatures-only; that the sum is right is the auditors' word"
            if signatures_only
            else words,
            "sum root": found["sum_root"],
        }
    )


@cli.command()
@config_options
@output_option
@click.option("--offline", is_flag=True, help="Leave out the network: nothing leaves this machine.")
def preflight(config: Path, settings: tuple[str, ...], output: str, offline: bool) -> None:
    """Check before a round what would stop this silo in it.

    Reads the config, policy, keys, roster, certificates, model and calibration text, opens the state folder, and looks
    whether the aggregator can be reached: name, proxy, TLS and clock. Also says what crypto library it stands on. Every
    line that failed says what to do. Exits with the code of the first check that failed.

    \b
    Example:
      silo-agent preflight --config agent.yaml
    """
    from silo_agent.commands.preflight import check_agent

    checks = check_agent(config, datetime.now(UTC), settings, online=not offline)
    failed = next((check.error for check in checks if check.error), None)
    if output == "table":
        for check in checks:
            click.echo(f"{check.status:<8} {check.name:<15} {check.said}")
    else:
        lines = [{"check": check.name, "status": check.status, "message": check.said} for check in checks]
        outcome = {"error": described(failed)} if failed else {}
        print_envelope("failed" if failed else "done", data={"checks": lines}, **outcome)
    if failed:
        raise failed


@cli.command()
@config_options
@click.option(
    "--forget", metavar="ROUND", help="Remove the release of this round, 64 hex digits; says what that risks."
)
@output_option
def ledger(config: Path, settings: tuple[str, ...], forget: str | None, output: str) -> None:
    """Show what this silo has released.

    Its agent holds every further round against that. Two sums over the same text that differ by one silo give away
    that silo's part, so the agent refuses a question it has answered, and rosters or survivors that differ by one
    from an earlier release's.

    \b
    Example:
      silo-agent ledger --config agent.yaml
    """
    from silo_agent.config import AgentConfig
    from silo_agent.consent.audit_log import AuditLog
    from silo_agent.consent.ledger import FORGOTTEN
    from silo_agent.consent.state_store import STATE_FILE, StateStore

    with failing_as(output):
        agent = AgentConfig.read(config, os.environ, settings)
        store = StateStore(agent.state / STATE_FILE)
        if forget is not None:
            store.forget(_digest(forget))
            AuditLog(agent.state).append("ledger_forgotten", user(), datetime.now(UTC), round=forget)
        made = store.releases()
    releases = [
        {
            "round": release.round.hex(),
            "kind": release.kind,
            "question": release.question.hex(),
            "data": release.data.hex(),
            "roster": list(release.roster),
            "survivors": list(release.survivors),
        }
        for release in made
    ]
    said = {"forgotten": forget, "risk": FORGOTTEN} if forget else {}
    if output == "json":
        print_envelope("done", data={"releases": releases, **said})
        return
    if forget:
        click.echo(f"{forget}: forgotten. {FORGOTTEN}")
        return
    for release in releases:
        roster, survivors = len(release["roster"]), ", ".join(release["survivors"])
        print_fields({**release, "roster": f"{roster} silos", "survivors": survivors or "none that this silo signed"})
        click.echo()
    click.echo(f"releases: {len(releases)}")


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"--forget: {text!r} is not a round digest in hex", hint="as this command lists it") from None


def main() -> None:
    """Console script."""
    run_command(cli)


if __name__ == "__main__":
    main()
