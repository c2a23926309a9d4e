"""What a measurement was made on: processor, cores, versions. Nothing that names the machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend

CPU_INFO = Path("/proc/cpuinfo")


def facts() -> dict[str, str]:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        "openssl": backend.openssl_version_text(),
        **{package: version(package) for package in ("cryptography", "numpy", "grpcio", "protobuf")},
    }
