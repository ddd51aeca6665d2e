"""The typed API of envoy-data-plane, imported once and without the warnings of its own classes."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # betterproto2 0.9 declares its validators in a way that pydantic 2.12 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from envoy_data_plane.envoy.config.core.v3 import (
        Address,
        HeaderValueOption,
        HeaderValueOptionHeaderAppendAction,
        SocketAddress,
    )
    from envoy_data_plane.envoy.service.auth import v3

__all__ = [
    "Address",
    "HeaderValueOption",
    "HeaderValueOptionHeaderAppendAction",
    "SocketAddress",
    "v3",
]
