"""Messages are cut the same however they arrive; a connection survives whatever is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ext_authz.rpc import (
    MAX_MESSAGE_BYTES,
    Caller,
    Messages,
    RpcError,
    Status,
    Stream,
    Unary,
    framed,
)
from ext_authz.rpc_call import MAX_WAITING_MESSAGES
from ext_authz.rpc_connection import MAX_CALLS, Connection
from tests.unit.fakes import SENTINEL

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 250), max_size=8))
def test_messages_are_the_same_however_the_bytes_are_split(
    messages: list[bytes], cuts: list[int]
) -> None:
    wire = b"".join(map(framed, messages))
    ends = sorted({min(cut, len(wire)) for cut in cuts} | {len(wire)})
    reader, found, begin = Messages(), [], 0
    for end in ends:
        found += reader.feed(wire[begin:end])
        begin = end
    assert found == messages
    assert not reader.has_rest


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        (b"\1\0\0\0\0", Status.UNIMPLEMENTED),
        (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED),
        (b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED),
    ],
)
def test_a_message_that_is_not_taken_is_refused_at_its_prefix(
    prefix: bytes, status: Status
) -> None:
    with pytest.raises(RpcError) as caught:
        Messages().feed(prefix)
    assert caught.value.status is status


class Transport:
    """Keeps what is written; says what asyncio's would."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Pair:
    """A connection without sockets, and a client that can be as odd as a test wants."""

    def __init__(self, **settings: int) -> None:
        self.open: set[Connection] = set()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.connection = Connection(
            {
                "/t/Echo": Unary(lambda message, caller: message),
                "/t/Later": Unary(self._later),
                "/t/Never": Unary(self._never),
                "/t/Breaks": Unary(self._breaks),
                "/t/BreaksLater": Unary(self._breaks_later),
                "/t/Refuses": Unary(self._refuses),
                "/t/Stream": Stream(self._stream),
                "/t/Deaf": Stream(self._deaf),
            },
            self.open,
        )
        self.transport: Any = Transport()
        self.connection.connection_made(self.transport)
        config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        self.client = h2.connection.H2Connection(config)
        codes = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
        self.client.initiate_connection()
        self.client.update_settings(codes)
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}
        self.goodbye: int | None = None

    async def _later(self, message: bytes, caller: Caller) -> bytes:
        await asyncio.sleep(0)
        return message

    async def _never(self, message: bytes, caller: Caller) -> bytes:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError

    def _breaks(self, message: bytes, caller: Caller) -> bytes:
        raise ValueError(SENTINEL)

    async def _breaks_later(self, message: bytes, caller: Caller) -> bytes:
        raise ValueError(SENTINEL)

    def _refuses(self, message: bytes, caller: Caller) -> bytes:
        raise RpcError(Status.PERMISSION_DENIED, "not for you: 100 % ünläßlich\n")

    async def _stream(self, messages: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    async def _deaf(self, messages: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        yield b""

    def begin(self, method: str, **headers: str) -> int:
        """Send a call's headers."""
        stream: int = self.client.get_next_available_stream_id()
        fields = dict(HEADERS) | {":path": f"/t/{method}"} | headers
        self.client.send_headers(stream, list(fields.items()))
        return stream

    def ask(self, method: str, *messages: bytes, **headers: str) -> int:
        """Send a whole call."""
        stream = self.begin(method, **headers)
        self.client.send_data(stream, b"".join(map(framed, messages)), end_stream=True)
        return stream

    async def exchange(self, size: int | None = None) -> None:
        """Pass bytes both ways until nobody has any more to say."""
        for _ in range(10_000):
            data = self.client.data_to_send()
            for at in range(0, len(data), size or max(len(data), 1)):
                self.connection.data_received(data[at : at + (size or len(data))])
            for _ in range(5):
                await asyncio.sleep(0)
            said, self.transport.written = bytes(self.transport.written), bytearray()
            if not data and not said:
                return
            for event in self.client.receive_data(said):
                self._hear(event)
        raise AssertionError("they never end")

    def _hear(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            fields = {_text(name): _text(value) for name, value in event.headers}
            self.headers.setdefault(event.stream_id, {}).update(fields)
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goodbye = event.error_code

    def status(self, stream: int) -> Status:
        """The status of an ended call."""
        return Status(int(self.headers[stream]["grpc-status"]))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("method", ["Echo", "Later", "Stream"])
@pytest.mark.parametrize("size", [None, 1, 7])
async def test_an_answer_is_the_same_however_the_frames_arrive(
    method: str, size: int | None
) -> None:
    pair = Pair()
    streams = [pair.ask(method, bytes([number]) * number) for number in range(5)]
    await pair.exchange(size)
    for number, stream in enumerate(streams):
        assert pair.status(stream) is Status.OK
        assert pair.headers[stream][":status"] == "200"
        assert pair.bodies[stream] == framed(bytes([number]) * number)


@pytest.mark.parametrize(
    ("method", "messages", "status"),
    [
        ("Nothing", [b""], Status.UNIMPLEMENTED),
        ("Echo", [], Status.INVALID_ARGUMENT),
        ("Echo", [b"one", b"two"], Status.INVALID_ARGUMENT),
        ("Breaks", [b""], Status.INTERNAL),
        ("BreaksLater", [b""], Status.INTERNAL),
        ("Refuses", [b""], Status.PERMISSION_DENIED),
    ],
)
async def test_a_call_that_cannot_be_served_ends_with_a_status_and_the_next_one_works(
    method: str, messages: list[bytes], status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Pair()
    stream, after = pair.ask(method, *messages), pair.ask("Echo", b"x")
    await pair.exchange()
    assert pair.status(stream) is status
    assert pair.headers[stream]["grpc-message"].isascii()
    assert stream not in pair.bodies
    assert pair.status(after) is Status.OK
    assert SENTINEL not in str(pair.headers) + caplog.text


async def test_a_sentence_travels_percent_encoded() -> None:
    pair = Pair()
    stream = pair.ask("Refuses", b"")
    await pair.exchange()
    said = pair.headers[stream]["grpc-message"]
    assert said == "not for you: 100 %25 %C3%BCnl%C3%A4%C3%9Flich%0A"


async def test_what_is_no_grpc_gets_415() -> None:
    pair = Pair()
    stream = pair.ask("Echo", b"", **{"content-type": "application/json"})
    await pair.exchange()
    assert pair.headers[stream] == {":status": "415"}


async def test_a_message_that_is_too_long_ends_its_call_before_it_has_arrived() -> None:
    pair = Pair()
    stream = pair.begin("Echo")
    pair.client.send_data(stream, b"\0" + (2**31).to_bytes(4, "big") + b"x" * 1000)
    after = pair.ask("Echo", b"x")
    await pair.exchange()
    assert pair.status(stream) is Status.RESOURCE_EXHAUSTED
    assert pair.resets == {stream: 0}
    assert pair.status(after) is Status.OK


@pytest.mark.parametrize("method", ["Echo", "Never", "Stream", "Nothing"])
async def test_a_reset_in_the_same_breath_harms_no_other_call(method: str) -> None:
    pair = Pair()
    stream = pair.ask(method, b"x")
    pair.client.reset_stream(stream, 8)
    after = pair.ask("Echo", b"x")
    await pair.exchange()
    assert pair.status(after) is Status.OK
    assert stream not in pair.bodies
    assert not pair.transport.closed


@pytest.mark.parametrize("method", ["Never", "Deaf"])
@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_nothing_works_on_for_a_client_that_went_away(method: str, how: str) -> None:
    pair = Pair()
    stream = pair.ask(method, b"x")
    await pair.exchange()
    if how == "reset":
        pair.client.reset_stream(stream, 8)
        await pair.exchange()
    else:
        assert pair.open == {pair.connection}
        pair.connection.connection_lost(None)
        assert not pair.open
    await asyncio.wait_for(pair.cancelled.wait(), 5)


@pytest.mark.parametrize("length", [0, 10, 100_000, MAX_MESSAGE_BYTES])
async def test_an_answer_waits_for_the_clients_window(length: int) -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=1000)
    streams = []
    for method in ("Echo", "Later", "Stream"):
        stream = pair.begin(method)
        data, sent = framed(b"x" * length), 0
        while sent < len(data):
            room = min(pair.client.local_flow_control_window(stream), 16384)
            if not room:
                await pair.exchange()
                continue
            pair.client.send_data(stream, data[sent : sent + room])
            sent += room
        pair.client.end_stream(stream)
        await pair.exchange()
        streams.append(stream)
    assert [len(pair.bodies[each]) for each in streams] == [length + 5] * 3
    assert {pair.status(each) for each in streams} == {Status.OK}


async def test_a_stream_that_nobody_reads_is_bounded() -> None:
    pair = Pair()
    stream = pair.begin("Deaf")
    await pair.exchange()
    for _ in range(MAX_WAITING_MESSAGES + 1):
        pair.client.send_data(stream, framed(b"x"))
    await pair.exchange()
    assert pair.status(stream) is Status.RESOURCE_EXHAUSTED
    assert pair.cancelled.is_set()


async def test_a_unary_call_with_endless_messages_ends_at_the_second() -> None:
    pair = Pair()
    stream = pair.begin("Echo")
    for _ in range(3):
        pair.client.send_data(stream, framed(b"x"))
    await pair.exchange()
    assert pair.status(stream) is Status.INVALID_ARGUMENT


async def test_more_calls_than_announced_are_taken_until_the_client_knows() -> None:
    """Envoy sends what waits for the connection before our SETTINGS have come."""
    pair = Pair()
    streams = [pair.ask("Echo", b"x") for _ in range(90)]
    first = pair.client.data_to_send()
    pair.connection.data_received(first)
    await pair.exchange()
    assert {pair.status(each) for each in streams} == {Status.OK}
    assert pair.client.remote_settings.max_concurrent_streams == MAX_CALLS


async def test_a_client_that_does_not_read_is_not_read_from_either() -> None:
    pair = Pair()
    pair.connection.pause_writing()
    assert not pair.transport.reading
    pair.connection.resume_writing()
    assert pair.transport.reading


async def test_goodbye_asks_for_no_more_calls_and_lets_the_present_ones_end() -> None:
    pair = Pair()
    stream = pair.ask("Later", b"x")
    pair.connection.data_received(pair.client.data_to_send())
    assert len(pair.connection.unary()) == 1
    pair.transport.written.clear()
    pair.connection.say_goodbye()
    said = bytes(pair.transport.written)
    assert said[3] == 7  # GOAWAY
    await asyncio.gather(*pair.connection.unary())
    assert framed(b"x") in bytes(pair.transport.written)
    assert stream == 1


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@given(data=st.binary(max_size=200), greets=st.booleans())
@example(data=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", greets=False)
@example(data=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", greets=False)
@example(data=b"\0\0\0\1\5\0\0\0\1", greets=True)  # a request without any header
@example(data=b"\0\0\0\4\0\0\0\0\1", greets=True)
def test_garbage_ends_at_most_its_own_connection(data: bytes, greets: bool) -> None:
    async def send() -> None:
        pair = Pair()
        for at in range(0, len(data), 50):
            if not pair.transport.closed:
                pair.connection.data_received(
                    (PREFACE if greets and not at else b"") + data[at:][:50]
                )
        pair.connection.connection_lost(None)

    asyncio.run(send())


@given(st.data())
def test_frames_in_any_order_break_nothing(data: st.DataObject) -> None:
    frame = st.tuples(
        st.integers(0, 11), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=30)
    )
    frames = data.draw(st.lists(frame, max_size=12))

    async def send() -> None:
        pair = Pair()
        pair.ask("Never", b"x")
        wire = pair.client.data_to_send()
        for kind, flags, stream, payload in frames:
            head = (
                len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
            )
            wire += head + payload
        pair.connection.data_received(wire)
        await asyncio.sleep(0)
        pair.connection.connection_lost(None)

    asyncio.run(send())
