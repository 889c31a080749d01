"""Compares the installed packages with the known vulnerabilities: exits 1 if there is one, or if nothing can be said.

    python .ci/audit.py PATH/TO/pip-audit [--or-unreachable]

pip-audit asks an advisory database on the network. Where that cannot be reached, or knows not a single package, this
prints a sentence and exits with 1, or with 0 given ``--or-unreachable``. Packages that the database does not know are
listed: they were not audited.
"""

import json
import subprocess
import sys
from typing import Any

UNREACHABLE = (
    "the advisory database cannot be reached from here, so no package was audited; run 'make audit' where it can"
)


def run(arguments: list[str]) -> int:
    """Audit, print, and return the exit code."""
    command, *flags = arguments
    result = subprocess.run([command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    packages = _packages(result.stdout)
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        print(UNREACHABLE)
        return 0 if "--or-unreachable" in flags else 1
    found = [(package, vulnerability) for package in audited for vulnerability in package["vulns"]]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    skipped = sorted(package["name"] for package in packages if "vulns" not in package)
    print(f"{len(audited)} packages audited, {len(found)} vulnerabilities; not audited: {', '.join(skipped) or 'none'}")
    return 1 if found else 0


def _packages(output: str) -> list[dict[str, Any]]:
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return []  # pip-audit prints no report where it fails
    return packages


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
