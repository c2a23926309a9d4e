"""A safetensors file by the format's own words: neither our reader nor the library's."""

import json
import struct
from pathlib import Path


def raw_tensors(file: Path) -> tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]:
    """Metadata and (dtype, shape, bytes) per tensor of a safetensors file, by the format's own words."""
    content = file.read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body = content[8 + length :]
    return metadata, {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }
