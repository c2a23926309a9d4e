"""The table of values in a chart's README, from the `# --` comments of its values.yaml.

`python tests/deploy/values_table.py` writes both; a test holds them against this.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

HELM = Path(__file__).parents[2] / "deploy/helm"
_MARKED = re.compile(r"(<!-- values -->\n).*(<!-- end of values -->)", re.DOTALL)


def commented(chart: str) -> Iterator[tuple[str, object, str]]:
    """Path, default and comment of every value. Raises ValueError where one has no comment."""
    text = (HELM / chart / "values.yaml").read_text()
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _walk(root, "", yaml.safe_load(text), text.splitlines())


def _walk(
    node: yaml.MappingNode, prefix: str, values: dict[str, object], lines: list[str]
) -> Iterator[tuple[str, object, str]]:
    for key, value in node.value:
        path, default = f"{prefix}{key.value}", values[key.value]
        above = lines[key.start_mark.line - 1].strip()
        if above.startswith("# -- "):
            yield path, default, above.removeprefix("# -- ")
        elif isinstance(value, yaml.MappingNode) and isinstance(default, dict) and default:
            yield from _walk(value, f"{path}.", default, lines)
        else:
            raise ValueError(f"{path}: has no comment")


def table(chart: str) -> str:
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, comment in commented(chart):
        spelled = json.dumps(default, ensure_ascii=False)
        rows.append(f"| `{path}` | `{spelled}` | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def readme(chart: str) -> str:
    """What the README should be."""
    text = (HELM / chart / "README.md").read_text()
    return _MARKED.sub(lambda found: found[1] + table(chart) + found[2], text)


if __name__ == "__main__":
    for name in ("aggregator", "silo-agent"):
        (HELM / name / "README.md").write_text(readme(name))
