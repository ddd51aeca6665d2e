"""Unit tests: no network beyond loopback, no real sleeps."""
