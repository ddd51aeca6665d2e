"""The manifests and recipes of deploy/: rendered, validated, and run where that is possible."""
