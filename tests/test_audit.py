"""The audit fails on a vulnerability, and never passes for an audit that did not happen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
CLEAN = {"name": "fastapi", "version": "0.1", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not found"}
VULNERABLE = {"name": "jinja2", "version": "2.4", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.4.1"]}]}


def audit(tmp_path: Path, output: str, *flags: str) -> tuple[int, str]:
    """Run the script on a pip-audit that prints this."""
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!{sys.executable}\nprint({output!r})\n")
    fake.chmod(0o755)
    result = subprocess.run([sys.executable, str(SCRIPT), str(fake), *flags], capture_output=True, text=True)
    assert result.stderr == ""
    return result.returncode, result.stdout


def report(*packages: object) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_packages_without_vulnerabilities_pass_and_those_that_were_not_audited_are_named(tmp_path: Path) -> None:
    code, text = audit(tmp_path, report(CLEAN, SKIPPED))
    assert (code, text) == (0, "1 packages audited, 0 vulnerabilities; not audited: torch\n")


@pytest.mark.parametrize("flags", [[], ["--or-unreachable"]])
def test_a_vulnerability_fails_with_the_version_that_has_it_fixed(tmp_path: Path, flags: list[str]) -> None:
    code, text = audit(tmp_path, report(CLEAN, VULNERABLE), *flags)
    assert code == 1
    assert "jinja2 2.4: PYSEC-1, fixed in 2.4.1" in text


@pytest.mark.parametrize("output", [report(SKIPPED, SKIPPED), report(), "", "no such host"])
def test_an_audit_of_nothing_fails_unless_that_is_allowed_and_then_says_so(tmp_path: Path, output: str) -> None:
    code, text = audit(tmp_path, output)
    assert code == 1
    assert audit(tmp_path, output, "--or-unreachable") == (0, text)
    assert "no package was audited" in text
