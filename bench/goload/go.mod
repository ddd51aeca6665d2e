module idtoken-sidecar/bench/goload

go 1.24
