package driver

import (
	"os"
	"strconv"
	"syscall"
)

// shutdownConnections shuts down every connection that was accepted on a Unix socket path, and
// returns their number. The runtime leaves them open when it stops, and has no API to close them. To
// a plugin this looks like the end of the runtime's process.
func shutdownConnections(path string) (int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	// Find all connections first: a plugin that reconnects at once may get a descriptor that the loop
	// has not checked yet.
	var connections []int
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		name, err := syscall.Getsockname(fd)
		if err != nil {
			continue
		}
		local, ok := name.(*syscall.SockaddrUnix)
		if !ok || local.Name != path {
			continue
		}
		listening, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
		if err != nil || listening != 0 {
			continue
		}
		connections = append(connections, fd)
	}
	count := 0
	for _, fd := range connections {
		if syscall.Shutdown(fd, syscall.SHUT_RDWR) == nil {
			count++
		}
	}
	return count, nil
}
