"""Tests of idtoken-sidecar: unit, integration (real Envoy), clients (real programs)."""
