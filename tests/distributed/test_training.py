"""Training with two worker processes: the result of one process, and what happens when a worker is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sidera.bundle import verify_bundle
from tests import processes, tiny
from tests.distributed.workers import JOBS, run_all

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all jobs have run."""
    folder = tmp_path_factory.mktemp("workers")
    ran = processes.run(run_all, folder)
    assert ran.code == 0, ran.said[-4000:]
    return folder


def report_of(runs: Path, name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((runs / name / "progress.json").read_text())
    return report


def weights_of(runs: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(runs / f"{name}.{rank}.pt", weights_only=True)
    return weights


@pytest.mark.parametrize("name", sorted({job.name for job in JOBS} - {"one"}))
def test_parts_workers_shards_and_killed_workers_give_the_losses_scores_and_weights_of_one_process(
    name: str, runs: Path
) -> None:
    alone, shared = report_of(runs, "one"), report_of(runs, name)
    assert shared["best_epoch"] == alone["best_epoch"]
    assert shared["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    scores = [[epoch["recall@10"] for epoch in report["scores"]] for report in (shared, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    expected = weights_of(runs, "one")
    for key, weight in weights_of(runs, name).items():
        assert torch.allclose(weight, expected[key], atol=1e-3), key


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_every_worker_ends_with_the_same_plain_weights(name: str, runs: Path) -> None:
    first, second = weights_of(runs, name, 0), weights_of(runs, name, 1)
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())


def test_one_worker_alone_writes_and_leaves_nothing_half_written(runs: Path) -> None:
    for name in ("ddp", "fsdp2", "ddp-killed", "fsdp2-killed"):
        assert sorted(path.name for path in (runs / name).iterdir()) == ["checkpoint.pt", "progress.json"]


def test_torchrun_trains_a_bundle_with_two_workers_though_one_is_killed_on_the_way(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    data = tiny.write_data(tmp_path / "data", {"books": 24}, users=30)
    document = tiny.config_of(data, tmp_path / "bundle", tiny_encoder)
    document["language_model"]["universal"]["batch_tokens"] = 128
    config = tiny.write_config(tmp_path / "config.yaml", document)
    torchrun = "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            *torchrun,
            "-m",
            "tests.distributed.killed_train",
            str(config),
            str(tmp_path / "killed"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert (tmp_path / "killed").exists()
    assert verify_bundle(tmp_path / "bundle") == []
    said = ran.stdout.splitlines()
    assert sum(line.startswith("data: 1 domains") for line in said) == 2, "before and after the kill, by one worker"
    assert sum(line.startswith("bundle: ") for line in said) == 1
    assert "tokenizer: kept" in ran.stdout, "what was made before the kill is not made again"
