module stream/benchmarks/go/openloop

go 1.26.0
