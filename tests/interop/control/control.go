// Package control lets a test drive a Go peer: JSON lines on stdin and stdout.
//
// A command is {"id": 1, "cmd": "name", "args": {...}}; its answer is {"id": 1, "result": ...} or
// {"id": 1, "error": {"message": "...", "code": "...", "details": [...]}}. The peer reports an event
// as {"event": "name", "data": ...}. Every command runs in a separate goroutine.
// The end of stdin ends the process, so that no peer outlives the test that started it.
package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Handler serves one command.
type Handler func(args json.RawMessage) (any, error)

// Error is an error with a code and details.
type Error struct {
	Message string `json:"message"`
	Code    string `json:"code,omitempty"`
	Details []any  `json:"details,omitempty"`
}

func (e *Error) Error() string { return e.Message }

type command struct {
	ID   int64           `json:"id"`
	Cmd  string          `json:"cmd"`
	Args json.RawMessage `json:"args"`
}

type answer struct {
	ID     int64  `json:"id"`
	Result any    `json:"result"`
	Error  *Error `json:"error,omitempty"`
}

type event struct {
	Event string `json:"event"`
	Data  any    `json:"data"`
}

var out struct {
	sync.Mutex
	writer *bufio.Writer
}

func init() {
	out.writer = bufio.NewWriterSize(os.Stdout, 1<<16)
}

func write(line any) {
	data, err := json.Marshal(line)
	if err != nil {
		Fatal("cannot encode %T: %v", line, err)
	}
	out.Lock()
	defer out.Unlock()
	out.writer.Write(data)
	out.writer.WriteByte('\n')
	out.writer.Flush()
}

// Emit reports an event to the test.
func Emit(name string, data any) {
	write(event{Event: name, Data: data})
}

// Fatal ends the process; the test shows its standard error.
func Fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "fatal: "+format+"\n", args...)
	os.Exit(1)
}

// Bind makes a handler of a function with typed arguments.
func Bind[A any](serve func(A) (any, error)) Handler {
	return func(raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, fmt.Errorf("bad arguments %.200s: %w", raw, err)
			}
		}
		return serve(args)
	}
}

// Serve announces that the peer is ready and serves commands until the end of stdin.
func Serve(ready any, handlers map[string]Handler) {
	Emit("ready", ready)
	in := bufio.NewReaderSize(os.Stdin, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				Fatal("reading stdin: %v", err)
			}
			os.Exit(0)
		}
		var cmd command
		if err := json.Unmarshal(line, &cmd); err != nil {
			Fatal("bad command %.200q: %v", line, err)
		}
		go serveOne(cmd, handlers[cmd.Cmd])
	}
}

func serveOne(cmd command, handle Handler) {
	if handle == nil {
		write(answer{ID: cmd.ID, Error: &Error{Message: fmt.Sprintf("no command %q", cmd.Cmd)}})
		return
	}
	result, err := handle(cmd.Args)
	if err == nil {
		write(answer{ID: cmd.ID, Result: result})
		return
	}
	var full *Error
	if !errors.As(err, &full) {
		full = &Error{Message: err.Error()}
	}
	write(answer{ID: cmd.ID, Error: full})
}
