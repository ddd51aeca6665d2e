"""Tests of the shipped envoy.yaml in the real Envoy, with the real service beside it."""
