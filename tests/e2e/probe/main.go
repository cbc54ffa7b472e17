// probe is the only program in the image of the tests: sandboxes and containers run it, tests execute it in
// containers, and OCI hooks run it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 3 {
		pause()
		return
	}
	var err error
	switch command, path := os.Args[1], os.Args[2]; command {
	case "cat":
		err = cat(path)
	case "touch":
		err = os.WriteFile(path, nil, 0o644)
	case "mkdir":
		err = os.Mkdir(path, 0o755)
	default:
		pause()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// cat prints the beginning of a file, or device.
func cat(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	data := make([]byte, 4096)
	n, err := file.Read(data)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data[:n])
	return err
}

// pause waits for a signal to end, and meanwhile reaps the orphans of its pid namespace.
func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
