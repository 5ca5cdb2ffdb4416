"""Known faults of the installed packages, by pip-audit: `make audit`. A package that nobody could ask about is told.

    python -m benchmarks.audit --pip-audit .venv-tools/bin/pip-audit

pip-audit calls a list clean of which it could look up nothing, as behind a mirror without advisories; here that is exit
status 2. 1 = a package has a known fault.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

OWN = "recgpt-recall"


def installed() -> list[str]:
    """Name and version of every package of this environment but our own."""
    known = {(each.metadata["Name"], each.version) for each in distributions()}
    # a build of its own, such as torch's for CPUs, has the faults of the version that it is a build of
    return sorted(f"{name}=={version.partition('+')[0]}" for name, version in known if name != OWN)


def summary(dependencies: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """(sentences, exit status) of pip-audit's list."""
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    faults = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in dependencies
        for fault in each.get("vulns", ())
    ]
    audited = len(dependencies) - len(skipped)
    lines = [f"{audited} packages looked up, {len(faults)} known faults", *faults]
    if skipped:
        lines.append(f"nothing could be asked about {len(skipped)}: {', '.join(skipped)}")
    return "\n".join(lines), 1 if faults else 0 if audited else 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pip-audit", default="pip-audit", help="the command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "installed.txt"
        listed.write_text("\n".join(installed()) + "\n", encoding="utf-8")
        command = [
            options.pip_audit,
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "-f",
            "json",
            "-r",
            listed,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        text, status = summary(json.loads(ended.stdout)["dependencies"])
    except ValueError:
        text, status = f"the advisories could not be reached: {ended.stderr.strip()[-500:]}", 2
    print(text)
    sys.exit(status)


if __name__ == "__main__":
    main()
