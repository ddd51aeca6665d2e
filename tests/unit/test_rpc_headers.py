"""What is remembered of a header block is always what hpack itself would say of it."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.rpc_headers import (
    MAX_REMEMBERED,
    RememberingDecoder,
    RememberingEncoder,
    is_only_indexes,
)

FIELDS = [
    (b":method", b"POST"),
    (b":path", b"/envoy.service.auth.v3.Authorization/Check"),
    (b"grpc-timeout", b"6000m"),
    (b"grpc-timeout", b"5000m"),
    (b"te", b"trailers"),
    (b"x-long", b"x" * 1500),
    (b"x-longer", b"y" * 3000),
    (b"x-empty", b""),
]
HEADERS = st.lists(st.sampled_from(FIELDS), max_size=6)
SIZES = st.sampled_from([None, None, None, 0, 100, 4096])


@given(st.lists(st.tuples(HEADERS, SIZES), max_size=30))
def test_decoding_is_what_hpack_says(
    lists: list[tuple[list[tuple[bytes, bytes]], int | None]],
) -> None:
    encoder, plain, ours = Encoder(), Decoder(), RememberingDecoder(65536)
    for headers, size in lists:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(headers)
        expected = list(plain.decode(block, raw=True))
        assert list(ours.decode(block, raw=True)) == expected == headers


@given(st.lists(st.tuples(HEADERS, SIZES), max_size=30))
def test_what_is_encoded_can_be_read(
    lists: list[tuple[list[tuple[bytes, bytes]], int | None]],
) -> None:
    ours, decoder = RememberingEncoder(), Decoder()
    for headers, size in lists:
        if size is not None:
            ours.header_table_size = size
        assert list(decoder.decode(ours.encode(headers), raw=True)) == headers


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_garbage_fails_as_it_does_in_hpack(blocks: list[bytes]) -> None:
    plain, ours = Decoder(), RememberingDecoder(65536)
    for block in blocks:
        try:
            expected = list(plain.decode(block, raw=True))
        except (HPACKError, IndexError):
            with pytest.raises((HPACKError, IndexError)):
                ours.decode(block, raw=True)
            return  # as a connection, which ends here
        assert list(ours.decode(block, raw=True)) == expected


@pytest.mark.parametrize(
    ("block", "is_so"),
    [
        (b"", False),
        (b"\x82\xfe", True),
        (b"\x80", False),
        (b"\xff\x01", False),
        (b"\x82\x41", False),
    ],
)
def test_only_whole_short_indexes_count(block: bytes, is_so: bool) -> None:
    assert is_only_indexes(block) is is_so


def test_the_limit_of_a_header_list_holds_for_what_is_remembered_too() -> None:
    encoder, ours = Encoder(), RememberingDecoder(4000)
    ours.decode(encoder.encode([FIELDS[5]]))
    block = encoder.encode([FIELDS[5]] * 3)
    for _ in range(2):
        with pytest.raises(HPACKError):
            ours.decode(block)


def test_no_client_can_make_it_remember_without_end() -> None:
    ours = RememberingDecoder(65536)
    for first in range(0x82, 0xBD):
        for second in range(0x82, 0x90):
            ours.decode(bytes([first, second]))
    assert len(ours._known) == MAX_REMEMBERED
