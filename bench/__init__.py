"""Measures the sidecar beside other proxies, on this machine alone; see docs/performance.md."""
