"""What all sections share: that they are frozen and know their keys, and the types of their values."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Kelvin = Annotated[float, Field(ge=50, le=2000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

Objective = Literal["eba", "eba_reference", "eba_dpo", "dpo", "none"]
Variant = Annotated[str, Field(pattern=f"^(?:{'|'.join(get_args(Objective))})_[a-z]+$")]
"""Name of a line of models with settings of its own: its objective, and a word."""
Basin = Literal["alpha_r", "beta", "alpha_l"]
Potential = Literal["double_well", "dw4", "lj13", "lj55"]
Law = Literal["mixture", "sphere", "helix", "torus"]
Vector = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """A frozen part of the configuration; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
