"""Locates the fields of a table in memory that another process wrote.

Python's FlatBuffers has no verifier, so every offset and length is checked against the slot before use. A hostile or
corrupt writer can make a reader raise :class:`WireError`, but never read outside the slot.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tridetr.errors import ShmError
from tridetr.wire.spec import Inline, Scalar, TableSpec, Text, Vector

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")


class WireError(ShmError):
    """A slot does not hold a valid table."""


@dataclass(frozen=True, slots=True)
class Span:
    """Location of a text or vector.

    Attributes:
        length_at: Offset of its u32 length in the buffer.
        start: Offset of its first element.
        limit: Elements that fit between ``start`` and the end of the slot.
    """

    length_at: int
    start: int
    limit: int


@dataclass(frozen=True, slots=True)
class TableView:
    """Locations of a table's fields in a buffer.

    Attributes:
        record: Reads all scalars at once (and, in a table built from its specification, writes them).
        record_at: Offset of the record in the buffer.
        reorder: Puts the values of ``record`` into the order of ``TableSpec.record``; None if they already are.
        spans: Texts and vectors by name.
    """

    record: struct.Struct
    record_at: int
    reorder: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None
    spans: dict[str, Span]

    def read(self, buffer: memoryview) -> tuple[Any, ...]:
        """Return all scalars in the order of ``TableSpec.record`` (inline structs flattened)."""
        values = self.record.unpack_from(buffer, self.record_at)
        return values if self.reorder is None else self.reorder(values)

    def length(self, buffer: memoryview, name: str) -> int:
        """Return the current length of a text or vector.

        Raises:
            WireError: It exceeds the slot.
        """
        span = self.spans[name]
        length: int = _U32.unpack_from(buffer, span.length_at)[0]
        if length > span.limit:
            raise WireError(f"length {length} of {name} exceeds the slot (at most {span.limit})")
        return length

    def length_or_0(self, buffer: memoryview, name: str) -> int:
        """Return the current length of a text or vector; 0 if it exceeds the slot."""
        span = self.spans[name]
        length: int = _U32.unpack_from(buffer, span.length_at)[0]
        return length if length <= span.limit else 0

    def text(self, buffer: memoryview, name: str) -> str:
        """Return a text; empty if its length exceeds the slot."""
        start = self.spans[name].start
        return str(buffer[start : start + self.length_or_0(buffer, name)], "utf-8", "replace")

    def put_length(self, buffer: memoryview, name: str, length: int) -> None:
        """Overwrite the length of a text or vector; only for tables built from their specification."""
        _U32.pack_into(buffer, self.spans[name].length_at, length)

    def put_text(self, buffer: memoryview, name: str, text: str, capacity: int) -> None:
        """Overwrite a text, truncated to its capacity; only for tables built from their specification."""
        span = self.spans[name]
        data = text.encode()[:capacity].decode(errors="ignore").encode()
        # The terminating 0 and the rest of the capacity stay zero.
        buffer[span.start : span.start + capacity] = data.ljust(capacity, b"\0")
        _U32.pack_into(buffer, span.length_at, len(data))


def locate(spec: TableSpec, buffer: memoryview, start: int, size: int) -> TableView:
    """Locate and validate the fields of the table whose buffer begins at ``start`` and may use ``size`` bytes.

    Raises:
        WireError: A field is missing, or is outside these bytes.
    """
    end = start + size
    if start < 0 or size < 16 or end > len(buffer):
        raise WireError(f"slot of {size} bytes at {start} exceeds the buffer of {len(buffer)}")
    if bytes(buffer[start + 4 : start + 8]) != spec.identifier:
        raise WireError(f"slot does not hold a {spec.identifier.decode()} table")
    table = start + _U32.unpack_from(buffer, start)[0]
    if not start + 8 <= table <= end - 4:
        raise WireError("root offset exceeds the slot")
    vtable = table - _I32.unpack_from(buffer, table)[0]
    if not start + 8 <= vtable <= end - 4:
        raise WireError("vtable offset exceeds the slot")
    vtable_size = _U16.unpack_from(buffer, vtable)[0]
    table_size = _U16.unpack_from(buffer, vtable + 2)[0]
    if vtable + vtable_size > end or table + table_size > end:
        raise WireError("vtable or table exceeds the slot")
    if vtable_size < 4 + 2 * len(spec.fields):
        raise WireError("vtable lacks fields (written without ForceDefaults, or an older schema?)")

    inline: list[tuple[int, int, Scalar | Inline]] = []
    spans: dict[str, Span] = {}
    order = {field.name: rank for rank, field in enumerate(spec.record)}
    for index, field in enumerate(spec.fields):
        offset = _U16.unpack_from(buffer, vtable + 4 + 2 * index)[0]
        field_size = field.size if isinstance(field, Scalar | Inline) else 4
        if offset < 4 or offset + field_size > table_size:
            raise WireError(f"field {field.name} is absent or exceeds the table")
        at = table + offset
        if isinstance(field, Scalar | Inline):
            inline.append((at, order[field.name], field))
        else:
            spans[field.name] = _span(field, buffer, at, end)
    return _view(inline, spans)


def _span(field: Text | Vector, buffer: memoryview, at: int, end: int) -> Span:
    length_at = at + _U32.unpack_from(buffer, at)[0]
    start = length_at + 4
    if length_at <= at or start > end:
        raise WireError(f"offset of {field.name} exceeds the slot")
    if isinstance(field, Text):
        return Span(length_at, start, max(0, end - start - 1))
    if start % min(field.align, 8):
        raise WireError(f"{field.name} is not aligned")
    return Span(length_at, start, (end - start) // field.element_size)


def _view(inline: list[tuple[int, int, Scalar | Inline]], spans: dict[str, Span]) -> TableView:
    inline.sort(key=lambda item: item[0])
    code = "<"
    position = first = inline[0][0]
    ranks: list[tuple[int, int]] = []  # (rank of the field, number of the value in it)
    for at, rank, field in inline:
        if at < position:
            raise WireError(f"field {field.name} overlaps another one")
        code += f"{at - position}x{field.code}"
        position = at + field.size
        values = len(struct.unpack("<" + field.code, bytes(field.size)))
        ranks += [(rank, value) for value in range(values)]
    wanted = sorted(range(len(ranks)), key=ranks.__getitem__)
    reorder = None if wanted == list(range(len(ranks))) else itemgetter(*wanted)
    return TableView(struct.Struct(code), first, reorder, spans)
