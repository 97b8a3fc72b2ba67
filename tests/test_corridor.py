"""Names of models and ensembles, and where their artifacts lie."""

from pathlib import Path
from typing import get_args

import pytest

from ancdiff.config import Objective, parse_config
from ancdiff.corridor import MD_ENSEMBLES, Layout, aligned_model, ancestors, models, split_model


def test_models_in_the_order_in_which_they_come_to_be() -> None:
    config = parse_config({"align": {"objectives": ["eba", "none"], "rounds": 2}})
    assert models(config) == ["pretrain", "eba_round1", "eba_round2", "none_round1", "none_round2"]
    made: set[str] = set()
    for model in models(config):
        assert model == "pretrain" or set(ancestors(model)) <= made
        made.add(model)


@pytest.mark.parametrize("objective", get_args(Objective))
@pytest.mark.parametrize("round_number", [1, 2, 10])
def test_a_name_splits_into_what_made_it(objective: str, round_number: int) -> None:
    name = aligned_model(objective, round_number)
    assert split_model(name) == (objective, round_number)
    assert ancestors(name) == ["pretrain", *(f"{objective}_round{r}" for r in range(1, round_number))]
    assert aligned_model(objective, 0) == "pretrain"


@pytest.mark.parametrize(
    "name", ["pretrain", "eba_round0", "eba_round01", "eba_round", "ppo_round1", "eba_round1x", ""]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not an aligned model's name"):
        split_model(name)


def test_every_artifact_has_its_own_place() -> None:
    layout = Layout("results")
    names = [*models(parse_config({})), *MD_ENSEMBLES]
    places = [layout.ensemble(n, s) for n in names for s in ("ala", "val")]
    places += [layout.energies(n, s) for n in names for s in ("ala", "val")]
    places += [layout.model(n) for n in models(parse_config({}))]
    places += [layout.simulated(s, md) for s in ("ala", "val") for md in MD_ENSEMBLES]
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to("results") for place in places)


def test_paths_that_people_and_tools_rely_on() -> None:
    layout = Layout(Path("r"))
    assert layout.simulated("ala", "training") == Path("r/simulate/ala/training.dcd")
    assert layout.ensemble("reference", "ala") == Path("r/dataset/ala/reference.dcd")
    assert layout.topology("ala") == layout.ensemble("training", "ala").parent / "topology.pdb"
    assert layout.ensemble("eba_round1", "ala") == Path("r/sample/eba_round1/ala/conformers.dcd")
    assert layout.energies("eba_round1", "ala") == Path("r/score/eba_round1/ala.parquet")
    assert layout.model("pretrain") == Path("r/pretrain/model.safetensors")
    assert layout.model("eba_round1") == Path("r/align/eba_round1/model.safetensors")
