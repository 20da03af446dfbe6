"""Field types and the base class that all parts of the machine description share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Upper limits keep every product of a few figures inside int64, and every table that is sized by them small.
Positive = Annotated[int, Field(gt=0, le=1 << 46)]
Natural = Annotated[int, Field(ge=0, le=1 << 32)]
Count = Annotated[int, Field(gt=0, le=65536)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e18)]
Rate = Annotated[float, Field(ge=0.001, le=1e6)]  # isa.params keeps thousandths


class Part(BaseModel):
    """A frozen mapping of the machine description: unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
