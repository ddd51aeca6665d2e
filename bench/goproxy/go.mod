module idtoken-sidecar/bench/goproxy

go 1.24
