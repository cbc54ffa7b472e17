module nri-sync.test/exports

go 1.24.0
