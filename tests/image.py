"""Builds the Dockerfile's image without a container engine: its steps, one after another, in a clean Debian of our own.

``debootstrap`` makes the file system that every stage begins with, ``chroot`` runs the steps in it. That needs root, a
Debian mirror and what pip is configured with here; the base differs from the Dockerfile's in that Debian's own Python
3.11 is its Python. Mounts live in a namespace of their own and end with the command.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

Instruction = tuple[str, str]
_BASE = "python3,python3-venv,ca-certificates"
_SUITE = "bookworm"


class BuildError(Exception):
    """A step failed; the end of what it said is in the message."""


@dataclass
class Image:
    """One stage, or what a build ends with.

    Attributes:
        root: the file system.
        environment: of ENV.
        folder: of WORKDIR.
        user: of USER; root before.
        entrypoint: of ENTRYPOINT.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Access:
    """What pip is configured with on this machine: variables, and folders that they name."""

    variables: Mapping[str, str]
    folders: Sequence[Path]

    @classmethod
    def here(cls) -> "Access":
        """Read pip's own configuration."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
        ).stdout
        found = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.M))
        found.pop("constraint", None)  # of this machine's own environments
        words = " ".join(found.values()).replace("file://", "").split()
        named = [Path(word) for word in words if word.startswith("/") and Path(word).exists()]
        # The pages of an index link to files beside it.
        folders = [path.parent if path.name == "simple" else path for path in named]
        return cls({f"PIP_{name.upper().replace('-', '_')}": value for name, value in found.items()}, folders)

    @property
    def other_index(self) -> str | None:
        """An index beside the default one."""
        return next(iter(self.variables.get("PIP_EXTRA_INDEX_URL", "").split()), None)


def missing() -> str | None:
    """Why images cannot be built here; None where they can."""
    if os.geteuid() != 0:
        return "root alone may chroot"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed (apt-get install debootstrap)"
    if Access.here().other_index is None:
        return "pip knows no index of CPU builds of PyTorch (PIP_EXTRA_INDEX_URL)"
    return None


def build(
    stages: Sequence[Sequence[Instruction]], context: Path, ignored: Sequence[str], work: Path, args: Mapping[str, str]
) -> Image:
    """Run all stages and return the last one.

    Args:
        stages: each begins with FROM.
        context: what COPY copies from.
        ignored: the lines of ``.dockerignore``.
        work: an empty folder.
        args: of ``--build-arg``.

    Raises:
        BuildError: a step fails.
    """
    base = work / "base"
    _run(["debootstrap", "--variant=minbase", f"--include={_BASE}", _SUITE, str(base)])
    (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    shutil.copy("/etc/resolv.conf", base / "etc/resolv.conf")
    built: dict[str, Image] = {}
    for number, stage in enumerate(stages):
        _, _, name = stage[0][1].partition(" AS ")
        image = Image(work / f"stage-{number}", {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
        _run(["cp", "-a", "--reflink=auto", str(base), str(image.root)])
        _stage(image, stage[1:], built, context, ignored, args)
        built[name or str(number)] = image
    return image


def command(
    image: Image,
    argv: Sequence[str],
    environment: Mapping[str, str] = {},
    *,
    read_only: bool = False,
    volumes: Mapping[Path, str] = {},
) -> list[str]:
    """The command line that runs ``argv`` in an image, for ``subprocess``.

    Args:
        read_only: nothing can be written but volumes and a fresh /tmp.
        volumes: folders of this machine, by where they are in the image.
    """
    root = shlex.quote(str(image.root))
    mounts = [f"mount --bind {root} {root}"]
    if read_only:
        mounts += [f"mount -o remount,bind,ro {root}", f"mount -t tmpfs tmpfs {root}/tmp"]
    mounts += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
    for path, inside in volumes.items():
        mounts += [f"mkdir -p {root}{inside}", f"mount --bind {shlex.quote(str(path))} {root}{inside}"]
    script = f"cd {shlex.quote(image.folder)} && exec {shlex.join(argv)}"
    variables = [f"{name}={value}" for name, value in (image.environment | dict(environment)).items()]
    enter = shlex.join(
        ["env", "-i", *variables, "chroot", f"--userspec={image.user}", str(image.root), "sh", "-c", script]
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "; ".join([*mounts, f"exec {enter}"])]


def _stage(
    image: Image,
    instructions: Sequence[Instruction],
    built: Mapping[str, Image],
    context: Path,
    ignored: Sequence[str],
    args: Mapping[str, str],
) -> None:
    known: dict[str, str] = {}
    for word, rest in instructions:
        if word == "ARG":
            name, _, default = rest.partition("=")
            known[name] = args.get(name, default)
        elif word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                image.environment[name] = re.sub(r"\$(\w+)", lambda found: image.environment[found[1]], value)
        elif word == "WORKDIR":
            image.folder = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            _copy(image, rest, built, context, ignored)
        elif word == "RUN":
            _in_chroot(image, rest, known)
        elif word == "USER":
            image.user = rest
        elif word == "ENTRYPOINT":
            image.entrypoint = re.findall(r'"([^"]*)"', rest)
        elif word != "EXPOSE":
            raise ValueError(f"this builder does not know {word}")


def _copy(image: Image, rest: str, built: Mapping[str, Image], context: Path, ignored: Sequence[str]) -> None:
    words = shlex.split(rest)
    target = image.root / os.path.join(image.folder, words[-1]).lstrip("/")  # noqa: PTH118 (words may be absolute)
    if words[0].startswith("--from="):
        source = built[words[0].removeprefix("--from=")].root / words[1].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        _run(["cp", "-a", "--reflink=auto", str(source), str(target)])
        return
    for name in words[:-1]:
        assert f"!{name}" in ignored, f"{name} does not enter the build"
        source = context / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_patterns(ignored)))
        else:
            shutil.copy(source, target if words[-1] != "./" else Path(image.root, image.folder.lstrip("/")))


def _patterns(ignored: Sequence[str]) -> list[str]:
    """The patterns of names that are left out in every folder."""
    patterns = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
    assert any(fnmatch("__pycache__", pattern) for pattern in patterns)
    return patterns


def _in_chroot(image: Image, script: str, known: Mapping[str, str]) -> None:
    access = Access.here()
    for folder in access.folders:
        inside = image.root / str(folder).lstrip("/")
        if folder.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
    volumes = {folder: str(folder) for folder in access.folders if folder.is_dir()}
    for certificate in (folder for folder in access.folders if folder.is_file()):
        shutil.copy(certificate, image.root / str(certificate).lstrip("/"))
    _run(command(image, ["sh", "-c", script], {**access.variables, **known}, volumes=volumes))


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BuildError(f"{shlex.join(argv)[-2000:]} ended with {done.returncode}; it said:\n{done.stdout[-5000:]}")
