"""docs/model-types.md, from what became of each type."""

import re
from collections.abc import Sequence
from pathlib import Path

import transformers

from model_types.one_type import Row
from model_types.verdicts import NOT_BUILDABLE, REASONS

PAGE = Path(__file__).parents[2] / "docs" / "model-types.md"

HEAD = """\
# Which models can be pruned

`make test-types` tries every `model_type` that transformers {version} maps to a causal language model, {count} of them,
and wrote this page. Of each it makes a tiny model with random weights, saves it, prunes it by Wanda, writes the sparse
model, loads that, and has it generate. A second calculation, which has no code in common with the pruning, runs the
whole model and looks at every multiplication: for each block, with the blocks before it pruned, it says which weights
Wanda must keep. The keep masks must be the same, and so must the logits after the last block.

Not tried are sizes and checkpoints: a model of a type that works may still be too large, or be stored otherwise than
transformers stores it. Quantised checkpoints (MXFP4, FP8, GPTQ, ...) are refused: prune the model that they came from.

Prunable are the matrices of the blocks' linear layers and of their experts. What routes tokens to experts stays dense,
and so do embeddings, output layers, convolutions, and encoders of images and sound. Where a file has all experts'
matrices in one tensor, each of them counts as a tensor: `NAME.0`, `NAME.1`, and so on.
"""


def page(rows: Sequence[Row]) -> str:
    """Return the text of docs/model-types.md."""
    of = {verdict: [row for row in rows if row.verdict == verdict] for verdict in ("works", "refused", "not buildable")}
    works = "\n".join(_lines(", ".join(f"`{row.model_type}`" for row in of["works"])))
    dense = "\n".join(
        f"| `{row.model_type}` | {', '.join(f'`{name}`' for name in row.dense)} |" for row in of["works"] if row.dense
    )
    refused = "\n".join(
        f"| `{row.model_type}` | {REASONS[row.model_type]} | {row.reason.partition(': ')[2].rpartition(' (')[0]} |"
        for row in of["refused"]
    )
    missing = "\n".join(f"| `{row.model_type}` | {NOT_BUILDABLE[row.model_type]} |" for row in of["not buildable"])
    return f"""{HEAD.format(version=transformers.__version__, count=len(rows))}
## Works: {len(of["works"])}

{works}

Of these, some have matrices in their blocks that stay dense though text is multiplied with them:

| type | dense |
|---|---|
{dense}

In models that have attention to an encoder, no text reaches it without one: there Wanda ranks by magnitude alone.
`doge` was tried without experts: with them, its router in transformers mixes the texts of a batch, and so what it
computes for a text depends on its neighbours.

## Refused: {len(of["refused"])}

| type | why | what the error says |
|---|---|---|
{refused}

## Not tried: {len(of["not buildable"])}

| type | why there is no tiny model |
|---|---|
{missing}
"""


def types_listed(text: str) -> dict[str, list[str]]:
    """Return the types that a page lists, by verdict."""
    works, refused, missing = (section.partition("\n")[2] for section in text.split("\n## ")[1:])
    return {
        "works": re.findall("`(.*?)`", works.partition("\n\nOf these")[0]),
        "refused": re.findall(r"^\| `(.*?)`", refused, re.MULTILINE),
        "not buildable": re.findall(r"^\| `(.*?)`", missing, re.MULTILINE),
    }


def _lines(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > 115:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
