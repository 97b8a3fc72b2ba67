"""How an ensemble looks in every figure: one of Okabe and Ito's colours, safe for colour-blind eyes, and a marker."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

from ancdiff.corridor import PRETRAINED, objective_of, split_model


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of an ensemble."""

    colour: str
    marker: str
    line: str


_LOOKS = {
    "training": Look("#E69F00", "s", ":"),
    "reference": Look("#000000", "D", "-"),
    PRETRAINED: Look("#56B4E9", "v", "-"),
    "eba": Look("#0072B2", "o", "-"),
    "eba_reference": Look("#D55E00", "P", "-"),
    "eba_dpo": Look("#009E73", "^", "-."),
    "dpo": Look("#999999", "<", "-."),
    "none": Look("#CC79A7", "X", "--"),
}
# Variants of an objective share one look, which is not the objective's own.
_VARIANT_COLOURS = {
    "eba": "#D55E00",
    "eba_reference": "#E69F00",
    "eba_dpo": "#882255",
    "dpo": "#555555",
    "none": "#AA4499",
}
_VARIANT_MARKS = (("x", "--"), ("^", ":"), ("v", "-."), ("P", "--"), ("*", ":"))
ELEMENT_COLOURS = {"C": "#4d4d4d", "N": "#0072B2", "O": "#D55E00", "S": "#E69F00", "H": "#bbbbbb"}
OTHER_ELEMENT = "#009E73"
FLOOR_COLOUR = "#666666"

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.hashsalt": "ancdiff",  # the same figure gives the same bytes
    "svg.fonttype": "path",
}


def look(ensemble: str) -> Look:
    """The look of an ensemble; all rounds and seeds of an objective share theirs."""
    if ensemble in _LOOKS:
        return _LOOKS[ensemble]
    return objective_look(split_model(ensemble).line)


def objective_look(objective: str) -> Look:
    """The look of a line of models: an objective, or a variant of one."""
    if objective in _LOOKS:
        return _LOOKS[objective]
    # Its word decides, so that a variant looks alike in every run, and mostly apart from others of its objective.
    marker, dashes = _VARIANT_MARKS[zlib.crc32(objective.rpartition("_")[2].encode()) % len(_VARIANT_MARKS)]
    return Look(_VARIANT_COLOURS[objective_of(objective)], marker, dashes)


@contextmanager
def house_style() -> Iterator[None]:
    """The figures' settings, for a while."""
    with matplotlib.rc_context(_RC):
        yield
