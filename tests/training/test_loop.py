"""The training loop: resuming, stopping, what it keeps and what it refuses."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from tests import processes
from tests.training.killed import MOMENTS, Numbers, batches_of, killed_loop, run_loop
from training.errors import ConfigError, NonFiniteLossError, StageError
from training.loop import LoopReport, train_loop
from training.model_config import OptimizerConfig
from training.trackers import PACKAGES, Tracking, check_trackers


class Climb(nn.Module):
    """One weight that falls by the learning rate at every step; the loss of a batch is what the test says."""

    def __init__(self, losses: dict[str, float] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses = losses or {}

    def forward(self, batch: Numbers) -> Tensor:
        return self.weight + self.losses.get(batch.name, 0.0)


def climb(folder: Path, model: Climb, scores: list[float], **settings: Any) -> LoopReport:
    config = OptimizerConfig(**{"epochs": len(scores), "learning_rate": 0.1, **settings})
    left = iter(scores)
    return train_loop("climb", model, batches_of, lambda: {"recall@10": next(left)}, config, seed=0, folder=folder)


def test_a_run_killed_at_many_moments_ends_in_the_losses_and_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    toy, report = run_loop(tmp_path / "undisturbed")
    ran = processes.run(killed_loop, tmp_path / "killed")
    assert ran.code == 0, ran.said
    killed = torch.load(tmp_path / "killed" / "weights.pt", weights_only=True)
    assert all(torch.equal(weight, killed[name]) for name, weight in toy.state_dict().items())
    reports = [(tmp_path / run / "progress.json").read_text() for run in ("undisturbed", "killed")]
    assert reports[0] == reports[1]
    assert len(report.losses) == 4
    assert len(MOMENTS) > 5


def test_another_seed_gives_other_losses(tmp_path: Path) -> None:
    def losses(seed: int) -> tuple[float, ...]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

        class Loss(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, batch: Numbers) -> Tensor:
                loss: Tensor = self.model(batch.values_BD).square().mean()
                return loss

        config = OptimizerConfig(epochs=1, learning_rate=0.1)
        return train_loop(
            "toy", Loss(), batches_of, lambda: {"recall@10": 0.0}, config, seed, tmp_path / str(seed)
        ).losses

    assert losses(1) != losses(2)


def test_training_stops_when_patience_is_out_and_keeps_the_best_epochs_weights(tmp_path: Path) -> None:
    model = Climb()
    seen: list[float] = []

    def validate() -> dict[str, float]:
        seen.append(float(model.weight.detach()))
        return {"recall@10": [0.1, 0.5, 0.4, 0.3, 0.9][len(seen) - 1]}

    config = OptimizerConfig(epochs=9, learning_rate=0.1, patience=2, weight_decay=0.0)
    report = train_loop("climb", model, batches_of, validate, config, seed=0, folder=tmp_path)
    assert report.best_epoch == 1
    assert [scores["recall@10"] for scores in report.scores] == [0.1, 0.5, 0.4, 0.3]
    assert float(model.weight.detach()) == seen[1]
    assert len(set(seen)) == 4


def test_the_second_score_breaks_ties_and_of_equal_epochs_the_later_one_is_kept(tmp_path: Path) -> None:
    def best_of(name: str, scores: list[tuple[float, float]], patience: int = 9) -> int:
        left = iter(scores)

        def validate() -> dict[str, float]:
            recall, ndcg = next(left)
            return {"recall@10": recall, "ndcg@10": ndcg}

        config = OptimizerConfig(epochs=len(scores), learning_rate=0.1, patience=patience)
        return train_loop("ties", Climb(), batches_of, validate, config, 0, tmp_path / name).best_epoch

    assert best_of("ndcg", [(0.5, 0.2), (0.5, 0.3), (0.4, 0.9)]) == 1
    assert best_of("equal", [(0.5, 0.2), (0.5, 0.2), (0.4, 0.2)]) == 1
    assert best_of("zero", [(0.0, 0.0)] * 4, patience=1) == 3


def test_a_finished_run_asked_again_gives_the_same_best_weights_without_training(tmp_path: Path) -> None:
    first = Climb()
    report = climb(tmp_path, first, [0.3, 0.2])
    again = Climb({f"batch {step}": math.nan for step in range(7)})
    assert climb(tmp_path, again, [0.9, 0.9]) == report
    assert torch.equal(first.weight, again.weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_phase_step_epoch_and_batch(bad: float, tmp_path: Path) -> None:
    model = Climb({"batch 4": bad})
    with pytest.raises(NonFiniteLossError, match=rf"climb: the loss is {bad} at step 4 of epoch 0 \(batch 4\)"):
        climb(tmp_path, model, [0.1])


def test_no_batch_to_train_on_is_refused(tmp_path: Path) -> None:
    config = OptimizerConfig(epochs=1, learning_rate=0.1)
    with pytest.raises(StageError, match="there is no event to train on; give users with at least 3 events"):
        train_loop("empty", Climb(), lambda epoch: [], lambda: {"recall@10": 0.0}, config, 0, tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    climb(tmp_path, Climb(), [0.1])
    config = OptimizerConfig(epochs=1, learning_rate=0.1)
    with pytest.raises(StageError, match=r"checkpoint.pt: the checkpoint is of another model; delete .* train again"):
        train_loop("other", nn.Linear(2, 2), batches_of, lambda: {"recall@10": 0.0}, config, 0, tmp_path)


def test_the_rate_rises_in_the_warm_up_and_falls_to_nearly_nothing(tmp_path: Path) -> None:
    places: list[float] = []

    class Watched(Climb):
        def forward(self, batch: Numbers) -> Tensor:
            places.append(float(self.weight.detach()))
            return super().forward(batch)

    model = Watched()
    climb(tmp_path, model, [float(epoch) for epoch in range(10)], warmup_share=0.2, learning_rate=0.1, weight_decay=0.0)
    places.append(float(model.weight.detach()))
    # Adam with a constant gradient of 1 moves by the learning rate at every step.
    rates = [before - after for before, after in itertools.pairwise(places)]
    peak = rates.index(max(rates))
    assert 0.15 < peak / len(rates) < 0.25
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[peak:]))
    assert rates[0] < 0.001
    assert rates[-1] < 0.001
    halfway = 0.2 + 0.8 / 2
    assert rates[int(halfway * len(rates))] == pytest.approx(0.05, rel=0.05)


def test_only_matrices_outside_embeddings_decay(tmp_path: Path) -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.embed_tokens = nn.Embedding(2, 2)
            for weight in self.parameters():
                nn.init.ones_(weight)

        def forward(self, batch: Numbers) -> Tensor:
            return 0.0 * (self.linear.weight.sum() + self.linear.bias.sum() + self.embed_tokens.weight.sum())

    model = Still()
    config = OptimizerConfig(epochs=1, learning_rate=0.1, weight_decay=0.5)
    train_loop("still", model, batches_of, lambda: {"recall@10": 0.0}, config, 0, tmp_path)
    assert (model.linear.weight < 0.95).all()
    assert (model.linear.bias == 1).all()
    assert (model.embed_tokens.weight == 1).all()


def test_weights_that_need_no_gradient_stay_and_are_not_kept_in_the_checkpoint(tmp_path: Path) -> None:
    class Half(Climb):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    model = Half()
    climb(tmp_path, model, [0.1])
    assert (model.frozen == 1).all()
    assert set(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["weights"]) == {"weight"}


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The (step, value) pairs that TensorBoard shows."""
    events = EventAccumulator(str(folder), purge_orphaned_data=True).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_each_step_once_though_the_run_was_killed_behind_its_checkpoint(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Dying(Climb):
        steps = 0

        def forward(self, batch: Numbers) -> Tensor:
            self.steps += 1
            if self.steps == 27:
                raise KilledError
            return super().forward(batch)

    def run(model: Climb, name: str) -> None:
        config = OptimizerConfig(epochs=5, learning_rate=0.1, checkpoint_steps=100)
        tracking = Tracking(("tensorboard",), tmp_path / name)
        train_loop(
            "my run", model, batches_of, lambda: {"recall@10": 0.5}, config, 0, tmp_path / "run" / name, tracking
        )

    run(Climb(), "undisturbed")
    with pytest.raises(KilledError):
        run(Dying(), "killed")
    run(Climb(), "killed")
    for tag in ("loss", "learning_rate", "epoch_loss", "validation/recall@10"):
        shown = curve(tmp_path / "killed" / "my-run", tag)
        assert shown == curve(tmp_path / "undisturbed" / "my-run", tag)
        assert [step for step, _ in shown] == [7, 14, 21, 28, 35]
    assert all(value > 0 for _, value in curve(tmp_path / "killed" / "my-run", "tokens_per_second"))


def test_without_trackers_nothing_but_the_checkpoint_and_the_report_is_written(tmp_path: Path) -> None:
    climb(tmp_path, Climb(), [0.1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "progress.json"]


def test_a_tracker_that_is_not_known_or_not_installed_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        ConfigError, match=r"trackers: 'tensorbord' is not known; use some of aim, .*, or \[\] for none"
    ):
        check_trackers(("tensorboard", "tensorbord"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(PACKAGES, "wandb", "no_such_package")
        with pytest.raises(
            ConfigError, match=r"wandb needs the package no_such_package, .* pip install no_such_package"
        ):
            check_trackers(("wandb",))


def test_bfloat16_products_train_float32_weights(tmp_path: Path) -> None:
    kinds: list[torch.dtype] = []

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 4)

        def forward(self, batch: Numbers) -> Tensor:
            product_BD = self.layer(batch.values_BD)
            kinds.append(product_BD.dtype)
            loss: Tensor = product_BD.square().mean()
            return loss

    def run(precision: str) -> tuple[float, ...]:
        config = OptimizerConfig(epochs=2, learning_rate=0.01, precision=precision)  # type: ignore[arg-type]
        model = Product()
        report = train_loop("product", model, batches_of, lambda: {"recall@10": 0.0}, config, 0, tmp_path / precision)
        assert model.layer.weight.dtype == torch.float32
        return report.losses

    half, whole = run("bfloat16"), run("float32")
    assert set(kinds[:14]) == {torch.bfloat16}
    assert set(kinds[14:]) == {torch.float32}
    assert half != whole
    assert half == pytest.approx(whole, rel=0.02)


def test_a_run_that_goes_on_takes_no_batch_that_is_done(tmp_path: Path) -> None:
    taken: list[int] = []

    class Watched(list[Numbers]):
        def __getitem__(self, step: Any) -> Any:
            taken.append(step)
            return super().__getitem__(step)

    class Dying(Climb):
        def forward(self, batch: Numbers) -> Tensor:
            if batch.name == "batch 5":
                raise KeyboardInterrupt
            return super().forward(batch)

    def run(model: Climb) -> None:
        config = OptimizerConfig(epochs=1, learning_rate=0.1, checkpoint_steps=4)
        train_loop(
            "lazy", model, lambda epoch: Watched(batches_of(epoch)), lambda: {"recall@10": 0.0}, config, 0, tmp_path
        )

    with pytest.raises(KeyboardInterrupt):
        run(Dying())
    assert taken == [0, 1, 2, 3, 4, 5]
    run(Climb())
    assert taken == [0, 1, 2, 3, 4, 5, 4, 5, 6]
