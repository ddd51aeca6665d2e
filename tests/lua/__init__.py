"""Tests of the Lua that runs inside Envoy."""
