"""What the sections of the configuration share: their base, and types of values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Score = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Point = Annotated[tuple[float, float], Field(description="x, y as fractions of the frame")]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen and checked."""

    # Deferred: built once, as parts of Config, in each of the node's processes.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)


def require_fractions(what: str, polygon: tuple[Point, ...]) -> None:
    """Raise ValueError unless all points are within the frame."""
    for x, y in polygon:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"{what} point ({x}, {y}) is not within 0..1 (fractions of the frame)")


def area(a: Point, b: Point, c: Point) -> float:
    """Return the area of a triangle."""
    return abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) / 2
