// ttrpcpeer is the Go implementation of ttRPC as a server or a client, driven by a test:
//
//	ttrpcpeer server /path/to/socket
//	ttrpcpeer client /path/to/socket
//
// The service is registered by hand with protobuf's own wrapper messages, so that neither side needs
// generated code: see the table in server.go.
package main

import (
	"os"

	"nri-sync.test/control"
)

const service = "nri_sync.testing.Echo"

func main() {
	if len(os.Args) != 3 {
		control.Fatal("usage: %s server|client SOCKET", os.Args[0])
	}
	switch os.Args[1] {
	case "server":
		serve(os.Args[2])
	case "client":
		drive(os.Args[2])
	default:
		control.Fatal("unknown mode %q", os.Args[1])
	}
}
