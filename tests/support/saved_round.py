"""A played round in a folder, as an aggregator saves it."""

from pathlib import Path

import yaml

from crypto.encoding.wire import encode
from scenarios.world import World


def save(world: World, folder: Path) -> Path:
    """Signed messages, uploads and sum in `folder`; the pinned roster beside it."""
    folder.mkdir()
    (folder / "transcript").write_bytes(encode(world.aggregator.transcript))
    for silo in world.aggregator.survivors:
        (folder / f"{silo}.words").write_bytes(b"".join(world.wire[silo]))
    (folder / "opened_sum.words").write_bytes(b"".join(world.opened))
    roster = {silo: key.public_bytes.hex() for silo, key in world.keys.items()}
    (folder.parent / "roster.yaml").write_text(yaml.safe_dump(roster))
    return folder
