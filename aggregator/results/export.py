"""A run's result, copied out of the aggregator's state as it was published."""

import shutil
from collections.abc import Callable
from pathlib import Path

from crypto.errors import InputError
from silo_agent.host.file_digest import file_digest
from silo_agent.host.whole_file import whole_folder, write_whole
from silo_agent.results.manifest import MANIFEST_FILE, Manifest


def export(result: Path, plan: bytes, out: Path, progress: Callable[[str, int, int], None]) -> Manifest:
    """Copy `result`, of the plan with the digest `plan`, to `out`, which appears whole or not at all.

    The copies are held against the manifest; a result without one gets one. Raises InputError where a file is not what
    was published, OutputError where `out` is not empty or cannot be written.
    """
    own = result / MANIFEST_FILE
    manifest = Manifest.decode(own.read_bytes()) if own.exists() else Manifest.of_folder(plan, result)
    with whole_folder(out) as partial:
        for done, listed in enumerate(manifest.files):
            progress("copying", done, len(manifest.files))
            copy = partial / listed.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(result / listed.name, copy)
            if file_digest(copy) != listed.sha256:
                raise InputError(f"{result / listed.name}: is not what was published", hint="check the disk")
        write_whole(partial / MANIFEST_FILE, manifest.encoded)
        progress("copying", len(manifest.files), len(manifest.files))
    return manifest
