"""Specifications of tables whose scalars are mutated in place: their fields, and the initial content of a slot.

A table is built once, with the official builder and ``ForceDefaults`` (without it, a field that equals its default is
omitted). All scalars are stored contiguously, so that a writer can mutate them with a single ``pack_into``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import flatbuffers

_SIZES = {"Q": 8, "q": 8, "d": 8, "I": 4, "H": 2, "B": 1, "?": 1}


@dataclass(frozen=True)
class Scalar:
    """A scalar field; ``code`` is its letter in module ``struct``."""

    name: str
    code: str

    @property
    def size(self) -> int:
        """Bytes in the table."""
        return _SIZES[self.code]


@dataclass(frozen=True)
class Inline:
    """An inline struct of scalars; ``code`` is its layout in module ``struct``, with the padding."""

    name: str
    code: str
    align: int = 8

    @property
    def size(self) -> int:
        """Bytes in the table."""
        return struct.calcsize("<" + self.code)


@dataclass(frozen=True)
class Text:
    """A string of at most ``capacity`` UTF-8 bytes; its length is mutated."""

    name: str
    capacity: int


@dataclass(frozen=True)
class Vector:
    """A vector of bytes or structs of fixed capacity; its length is mutated."""

    name: str
    element_size: int
    align: int


Field = Scalar | Inline | Text | Vector


@dataclass(frozen=True)
class TableSpec:
    """A table: its file identifier, and its fields in the order of the schema."""

    identifier: bytes
    fields: tuple[Field, ...]

    def index(self, name: str) -> int:
        """Return the field's number in the schema."""
        return next(i for i, field in enumerate(self.fields) if field.name == name)

    @property
    def record(self) -> tuple[Scalar | Inline, ...]:
        """The scalars and inline structs in the order in which they are stored and packed: largest first."""
        inline = [field for field in self.fields if isinstance(field, Scalar | Inline)]
        return tuple(sorted(inline, key=lambda field: -field.size))

    def build(self, counts: Mapping[str, int]) -> bytes:
        """Return a finished buffer with all scalars 0 and all texts and vectors at full capacity.

        Args:
            counts: Number of elements of each vector. The vector that is named last is stored last.
        """
        space = sum(counts[f.name] * f.element_size for f in self.fields if isinstance(f, Vector))
        builder = flatbuffers.Builder(space + 4096)
        builder.ForceDefaults(True)
        offsets: dict[str, int] = {}
        by_name = {field.name: field for field in self.fields}
        for name in reversed(list(counts)):  # the buffer grows from its end
            vector = by_name[name]
            assert isinstance(vector, Vector)
            offsets[name] = _zero_vector(builder, vector, counts[name])
        for field in self.fields:
            if isinstance(field, Text):
                offsets[field.name] = builder.CreateString(b"\0" * field.capacity)
        builder.StartObject(len(self.fields))
        for index, field in enumerate(self.fields):
            if isinstance(field, Text | Vector):
                builder.PrependUOffsetTRelativeSlot(index, offsets[field.name], 0)
        for field in reversed(self.record):
            index = self.index(field.name)
            if isinstance(field, Scalar):
                _SLOT[field.code](builder, index, 0, 0)
            else:
                builder.Prep(field.align, field.size)
                builder.Pad(field.size)
                builder.PrependStructSlot(index, builder.Offset(), 0)
        builder.Finish(builder.EndObject(), file_identifier=self.identifier)
        return bytes(builder.Output())


def _zero_vector(builder: flatbuffers.Builder, vector: Vector, count: int) -> int:
    builder.StartVector(vector.element_size, count, vector.align)
    builder.Pad(count * vector.element_size)
    offset: int = builder.EndVector()
    return offset


_SLOT = {
    "Q": flatbuffers.Builder.PrependUint64Slot,
    "q": flatbuffers.Builder.PrependInt64Slot,
    "d": flatbuffers.Builder.PrependFloat64Slot,
    "I": flatbuffers.Builder.PrependUint32Slot,
    "H": flatbuffers.Builder.PrependUint16Slot,
    "B": flatbuffers.Builder.PrependUint8Slot,
    "?": flatbuffers.Builder.PrependBoolSlot,
}
