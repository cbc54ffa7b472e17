// Prints the FileDescriptorProto that the Go module's generated code carries.
package main

import (
	"fmt"
	"os"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
)

func main() {
	file := protodesc.ToFileDescriptorProto(api.File_pkg_api_api_proto)
	bytes, err := proto.Marshal(file)
	if err == nil {
		_, err = os.Stdout.Write(bytes)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
