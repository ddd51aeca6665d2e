"""A gRPC app: a plaintext channel, and no word about tokens or certificates."""
# ruff: noqa: S104, S108, T201, RUF100 - prints, and listens in its container

import sys

import grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    unary = channel.unary_unary("/idtoken.Echo/Unary")
    reply, call = unary.with_call(b"Hello over gRPC!", timeout=30)
    print(reply.decode())
    caller = dict(call.trailing_metadata())["caller-email"]
    print(f"the service knows the caller as {caller}")
    both_ways = channel.stream_stream("/idtoken.Echo/Bidi")
    for message in both_ways(iter([b"one", b"two", b"three"]), timeout=30):
        print(f"streamed back: {message.decode()}")
