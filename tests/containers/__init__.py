"""What runs in containers, started for real on a Docker engine."""
