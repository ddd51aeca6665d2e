module example.com/idtoken-sidecar/goget

go 1.21
