"""The benchmark of the routers: what it chooses, what it compares, and what it reads off."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks.router import Fixed, best_fixed, fixed_ndcg, main, routed_ndcg, router_figures
from training.expert_masses import Experts, Known

NAMES = ("universal", "domain", "followers", "alike", "popularity")


def known(target: int, share_G: list[float], by_expert: dict[int, list[float]]) -> Known:
    mass_GC = np.array([by_expert.get(expert, [0.0, 0.0]) for expert in range(5)])
    return Known(mass_GC, target, np.array(share_G), np.zeros(5))


def test_a_router_that_hears_the_right_expert_for_each_history_is_above_any_fixed_shares() -> None:
    # Followers are right of one history, items alike of the other, and each as sure as the other; nothing else differs.
    by_expert = {2: [0.9, 0.1], 3: [0.1, 0.9]}
    right = [known(0, [0, 0, 1, 0, 0], by_expert), known(1, [0, 0, 0, 1, 0], by_expert)]
    wrong = [known(0, [0, 0, 0, 1, 0], by_expert), known(1, [0, 0, 1, 0, 0], by_expert)]
    routed, misled = (Experts(NAMES, 2, tuple(own)) for own in (right, wrong))
    assert routed_ndcg(routed).tolist() == [1.0, 1.0]
    assert routed_ndcg(misled).tolist() == pytest.approx([1 / np.log2(3)] * 2)
    followers = Fixed(0.0, np.array([1.0, 0.0, 0.0, 0.0]))
    assert fixed_ndcg(routed, followers).tolist() == pytest.approx([1.0, 1 / np.log2(3)])


def test_the_router_holds_where_it_is_above_the_fixed_shares_on_test() -> None:
    clear, other = {2: [0.9, 0.1], 3: [0.1, 0.9]}, {2: [0.1, 0.9], 3: [0.9, 0.1]}
    validation = Experts(NAMES, 2, (known(0, [0, 0, 1, 0, 0], clear),))
    test = Experts(NAMES, 2, (known(0, [0, 0, 0, 1, 0], other),))
    told = router_figures("a", validation, test, 0)
    assert told["routed_minus_fixed_validation_a"].value == 0.0
    assert told["routed_minus_fixed_validation_a"].holds is None
    assert told["routed_minus_fixed_test_a"].value == pytest.approx(1 - 1 / np.log2(3))
    assert told["routed_minus_fixed_test_a"].holds is True
    assert router_figures("a", validation, validation, 0)["routed_minus_fixed_test_a"].holds is False


@pytest.mark.parametrize(("expert", "gamma", "place"), [(0, 0.0, 3), (1, 1.0, 3), (2, None, 0), (3, None, 1)])
def test_the_best_fixed_shares_hear_the_expert_that_knows_the_targets(
    expert: int, gamma: float | None, place: int
) -> None:
    others = [own for own in range(5) if own != expert]
    masses = {own: [0.6, 0.4] for own in others} | {expert: [0.2, 0.8]}
    experts = Experts(NAMES, 2, (known(1, [0.2] * 5, masses),))
    fixed = best_fixed(experts)
    assert fixed_ndcg(experts, fixed).tolist() == [1.0]
    assert fixed.share_P[place] > 0
    assert fixed.share_P.sum() == pytest.approx(1)
    assert gamma is None or (fixed.gamma == 0.0) == (gamma == 0.0)


def test_fixed_shares_are_chosen_on_validation_and_kept_for_test() -> None:
    followers, alike = {2: [0.2, 0.8], 3: [0.8, 0.2]}, {2: [0.8, 0.2], 3: [0.2, 0.8]}
    share = [0.0, 0.0, 0.5, 0.5, 0.0]
    validation, test = (Experts(NAMES, 2, (known(1, share, masses),)) for masses in (followers, alike))
    told = router_figures("a", validation, test, 0)
    assert told["ndcg_fixed_validation_a"].value == 1.0
    assert told["ndcg_fixed_test_a"].value == pytest.approx(1 / np.log2(3))


def test_the_program_writes_its_figures_and_refuses_in_one_sentence(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(tiny_bundle, tiny_data, "films", tmp_path / "out.json", targets=4, validation=5, threads=0)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert figures["ndcg_routed_test_films"]["note"] == "4 targets"
    assert figures["ndcg_fixed_validation_films"]["note"].startswith("5 targets; followers ")
    with pytest.raises(typer.Exit):
        main(tiny_bundle, tiny_data, "music", tmp_path / "out.json", targets=4, validation=5, threads=0)
    assert "'music', which has no shares in this bundle; choose among" in capsys.readouterr().err
