"""`aggregator pack` and `unpack`: a sparse model without its zeros, and back."""

from pathlib import Path

import click

from silo_agent.host.terminal import FILE


@click.command()
@click.argument("model", type=FILE)
@click.option("--out", required=True, type=FILE, help="Folder to make.")
def pack(model: Path, out: Path) -> None:
    """Write a sparse model without its zeros.

    One bit a weight says which are kept (docs/bitmask-container.md).

    \b
    Example:
      aggregator pack pruned/model --out packed
    """
    from aggregator.results.bitmask_container import pack as write_container

    sizes = write_container(model, out)
    click.echo(
        f"{out}: {sizes.bitmask:,} bytes of weights, {sizes.bitmask / sizes.dense:.0%} of {sizes.dense:,}", err=True
    )


@click.command()
@click.argument("container", type=FILE)
@click.option("--out", required=True, type=FILE, help="Folder to make; it loads with from_pretrained.")
def unpack(container: Path, out: Path) -> None:
    """Write the folder that a container was packed from, bit for bit.

    \b
    Example:
      aggregator unpack packed --out model
    """
    from aggregator.results.bitmask_container import unpack as write_model

    write_model(container, out)
    click.echo(f"{out}: written", err=True)
