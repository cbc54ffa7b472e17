module nri-sync.test/driver

go 1.24.0

// The oldest version that this is used with; each runtime pins the one it stands for.
require (
	github.com/containerd/nri v0.6.1
	github.com/containerd/ttrpc v1.2.3
	google.golang.org/protobuf v1.31.0
	nri-sync.test/control v0.0.0
)

replace nri-sync.test/control => ../control
