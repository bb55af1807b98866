"""The base class and the value types that all configuration sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tridetr.polygons import crosses_itself

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Score = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]
# Keys of files that contain a secret. Users have written the secret itself there, so messages show the value only
# where a file of that name exists
SECRET_FILES = frozenset(
    {"credentials_file", "key_file", "password_file", "secret_file", "token_file", "url_file"}
)
Point = Annotated[tuple[float, float], Field(description="x, y as fractions of the frame")]


class Section(BaseModel):
    """Base of all sections: validated and immutable; unknown keys are errors."""

    # Deferred, so that each process builds the validators once, as parts of Config
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    @field_validator(*sorted(SECRET_FILES), mode="before", check_fields=False)
    @classmethod
    def _is_not_the_secret(cls, value: object) -> object:
        if isinstance(value, str) and (":" in value.partition("/")[0] or "\n" in value):
            raise ValueError(
                "this seems to be the secret itself: write it to a file that only tridetr's user can read, and the "
                "file's path here (with ./ before a name that contains a colon)"
            )
        return value


def require_polygon(what: str, polygon: tuple[Point, ...]) -> None:
    """Raise ValueError unless all points are within the frame, and in order around the polygon."""
    for x, y in polygon:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(
                f"{what}: point ({x}, {y}) is outside 0..1; give fractions of the frame"
            )
    if crosses_itself(polygon):
        raise ValueError(
            f"{what}: edges of the polygon cross, so it covers less than it seems to; "
            "list its points in order around it"
        )


def area(a: Point, b: Point, c: Point) -> float:
    """Return the area of a triangle."""
    return abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) / 2
