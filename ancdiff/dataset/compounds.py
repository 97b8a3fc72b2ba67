"""The dataset stage for a set of compounds: fetched where asked, read, checked, split in three parts."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ancdiff.artifacts import write_json, write_table
from ancdiff.compound_files import write_compounds
from ancdiff.config import CompoundSettings, StageConfig
from ancdiff.corridor import PARTS, Layout
from ancdiff.dataset.download import download
from ancdiff.dataset.qm9 import GEOMETRIES, UNCHARACTERIZED, ReadCompounds, read_compounds, read_excluded, split_parts
from ancdiff.origins import compound_sources
from ancdiff.provenance import made_by


def run(settings: StageConfig, *, results: Path) -> None:
    """Write the three parts of the set, ``dataset/split.parquet`` (and .tsv) and ``dataset/checks.json``.

    The split has a seed of its own. Uses the network where ``download`` is on and a file is missing.

    Raises:
        InputError: a file is missing, damaged or another than published, or too few sound compounds are in it.
    """
    ((name, system),) = settings.systems.items()
    compounds: CompoundSettings = system.compounds
    source = Path(compounds.source)
    listed = None if compounds.excluded is None else Path(compounds.excluded)
    if compounds.download:
        download(GEOMETRIES, source)
        if listed is not None:
            download(UNCHARACTERIZED, listed)
    excluded = frozenset() if listed is None else read_excluded(listed)
    read = read_compounds(source, excluded=excluded)
    record = made_by(
        "dataset",
        settings=settings.as_dict(),
        seed=compounds.split_seed,
        parents=map(Path, compound_sources(compounds)),
    )
    write_json(results / "dataset" / "checks.json", checks_record(name, read) | {"made_by": record})
    parts = split_parts(len(read.compounds), compounds.shares, compounds.split_seed)
    layout = Layout(results)
    for part, places in zip(PARTS, parts, strict=True):
        write_compounds(layout.part(part, name), read.compounds.take(places), record)
    split_path = results / "dataset" / "split.parquet"
    write_json(split_path.with_suffix(".json"), record)
    write_table(split_path, _split_table(name, read, parts), tsv=True)


def checks_record(system: str, read: ReadCompounds) -> dict[str, Any]:
    """Every compound that was left out, with its reason, and counts."""
    reasons = Counter(str(row["reason"]).split(":")[0] for row in read.left_out)
    counts = {
        "kept": len(read.compounds),
        "atoms": int(read.compounds.first_atom[-1]),
        "excluded_by_list": read.excluded,
        "left_out": dict(sorted(reasons.items())),
    }
    return {"compounds": [{"system": system, **row} for row in read.left_out], "systems": {system: counts}}


def _split_table(system: str, read: ReadCompounds, parts: tuple[np.ndarray, ...]) -> pd.DataFrame:
    """One row for each compound: its number in the source, its part, its place there, and its number of atoms."""
    rows = [
        pd.DataFrame(
            {
                "system": system,
                "number": read.compounds.number[places],
                "split": part,
                "place": np.arange(len(places)),
                "atoms": read.compounds.sizes[places],
            }
        )
        for part, places in zip(PARTS, parts, strict=True)
    ]
    return pd.concat(rows, ignore_index=True)
