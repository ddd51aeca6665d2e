"""Tests with the real programs that apps are made of."""
