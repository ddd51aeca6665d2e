"""Tests of the credential sources."""
