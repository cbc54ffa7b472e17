module nri-sync.test/probe

go 1.24
