module nri-sync.test/control

go 1.24.0
