"""Header compression that remembers: an Envoy sends and gets the same few headers for hours.

A block of nothing but indexes (RFC 7541, 6.1) leaves the header table as it is, and means the same
for as long as the table stays the same. Everything else goes through hpack, and ends what is
remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder

MAX_REMEMBERED = 64  # blocks, of each direction of a connection


class RememberingDecoder(Decoder):
    """hpack's, for header blocks of raw bytes."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._known: dict[bytes, list[Any]] = {}

    def decode(self, data: bytes, raw: bool = True) -> Iterable[Any]:
        """Return the headers of a block. Raises hpack's errors."""
        known = self._known.get(data)
        if known is not None and raw:
            return known
        found = list(super().decode(data, raw))
        if not is_only_indexes(data):
            self._known.clear()
        elif raw and len(self._known) < MAX_REMEMBERED:
            self._known[bytes(data)] = found
        return found


class RememberingEncoder(Encoder):
    """hpack's, for lists of (name, value)."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[Any, ...], bytes] = {}

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """Return the block for these headers."""
        listed = tuple(headers)
        if self.header_table.resized:
            self._known.clear()  # the client has set another size; entries may be gone
        known = self._known.get(listed)
        if known is not None:
            return known
        block = super().encode(listed, huffman)
        if not is_only_indexes(block):
            self._known.clear()
        elif len(self._known) < MAX_REMEMBERED:
            self._known[listed] = block
        return block


def is_only_indexes(block: bytes) -> bool:
    """Say whether each byte is a whole "indexed header field": its first bit set, its number short.

    0x80 would be index 0, which is an error; after 0xff the number goes on.
    """
    return bool(block) and min(block) > 0x80 and max(block) < 0xFF
