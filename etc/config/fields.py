"""The types of settings that several sections share, and what all sections have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

LARGEST = 2**31 - 1  # of counts and sizes: no run can use more, and libraries overflow; not worth a word in --help
LARGEST_SEED = 2**63 - 1  # torch takes no more
LARGEST_SIDE = 65_535  # of images, pixels
PROCESSES = 1024

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LabelValue = Annotated[int, Field(ge=0, le=255)]
# JSON, which results are stored in, has only texts for keys: their numbers are read leniently.
Mapping = dict[Annotated[int, Field(strict=False)], int]
LabelMap = str | Mapping
NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A section of the settings: known keys alone, values of the right type, no empty texts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.strip():
                raise ValueError("must not be an empty text")
            if isinstance(text, str) and "\0" in text:
                raise ValueError("must not hold a NUL character: no file can have this name")
        return value
