"""Adds the base image's Debian packages to a CycloneDX bill of materials: stdin to stdout.

cyclonedx-py lists what pip installed; what lies beneath, such as libc and the Python interpreter, is Debian's.
"""

import json
import subprocess
import sys
from urllib.parse import quote

FORMAT = "${Package}\t${Version}\t${Architecture}\n"


def main() -> None:
    """Raises CalledProcessError where the base is not Debian's."""
    bill = json.load(sys.stdin)
    command = ["/usr/bin/dpkg-query", "--show", "--showformat", FORMAT]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in sorted(listed.stdout.splitlines()):
        name, version, architecture = line.split("\t")
        reference = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
        component = {"type": "library", "name": name, "version": version, "purl": reference, "bom-ref": reference}
        bill["components"].append(component)
    json.dump(bill, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
