package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"nri-sync.test/control"
)

type driver struct {
	path   string
	lock   sync.Mutex
	client *ttrpc.Client
}

func drive(path string) {
	d := &driver{path: path}
	control.Serve(nil, map[string]control.Handler{
		"connect": control.Bind(d.connect),
		"close":   control.Bind(d.close),
		"call":    control.Bind(d.call),
		"calls":   control.Bind(d.calls),
		"sum":     control.Bind(d.sum),
		"count":   control.Bind(d.count),
		"chat":    control.Bind(d.chat),
		"streams": control.Bind(d.streams),
	})
}

func (d *driver) connect(struct{}) (any, error) {
	conn, err := net.Dial("unix", d.path)
	if err != nil {
		return nil, err
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.client != nil {
		d.client.Close()
	}
	d.client = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { control.Emit("closed", nil) }))
	return nil, nil
}

func (d *driver) connected() (*ttrpc.Client, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.client == nil {
		return nil, errors.New("not connected")
	}
	return d.client, nil
}

func (d *driver) close(struct{}) (any, error) {
	client, err := d.connected()
	if err != nil {
		return nil, err
	}
	return nil, client.Close()
}

type callArgs struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	// Request is protojson of an Any: {"@type": "type.googleapis.com/google.protobuf.BytesValue", "value": ...}
	Request json.RawMessage `json:"request"`
	// Size makes the request a BytesValue of that many bytes instead.
	Size *int `json:"size"`
	// Reply is the full name of the reply's message.
	Reply         string              `json:"reply"`
	TimeoutMs     int                 `json:"timeout_ms"`
	CancelAfterMs int                 `json:"cancel_after_ms"`
	Metadata      map[string][]string `json:"metadata"`
}

// call makes one unary call and returns its reply as protojson of an Any.
func (d *driver) call(args callArgs) (any, error) {
	client, err := d.connected()
	if err != nil {
		return nil, err
	}
	request, err := args.message()
	if err != nil {
		return nil, err
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(args.Reply))
	if err != nil {
		return nil, err
	}
	reply := kind.New().Interface()
	ctx, cancel := args.context()
	defer cancel()
	name := args.Service
	if name == "" {
		name = service
	}
	if err := client.Call(ctx, name, args.Method, request, reply); err != nil {
		return nil, describe(err)
	}
	packed, err := anypb.New(reply)
	if err != nil {
		return nil, err
	}
	raw, err := protojson.Marshal(packed)
	return json.RawMessage(raw), err
}

func (args *callArgs) message() (proto.Message, error) {
	if args.Size != nil {
		return bytesOf(pattern(*args.Size)), nil
	}
	packed := &anypb.Any{}
	if err := protojson.Unmarshal(args.Request, packed); err != nil {
		return nil, err
	}
	return packed.UnmarshalNew()
}

func (args *callArgs) context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	if args.TimeoutMs > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), time.Duration(args.TimeoutMs)*time.Millisecond)
	}
	if args.CancelAfterMs > 0 {
		time.AfterFunc(time.Duration(args.CancelAfterMs)*time.Millisecond, cancel)
	}
	if len(args.Metadata) > 0 {
		ctx = ttrpc.WithMetadata(ctx, ttrpc.MD(args.Metadata))
	}
	return ctx, cancel
}

// describe returns the kind of an error: the code of a peer's status, or the type of another error.
func describe(err error) error {
	full := &control.Error{Message: err.Error(), Code: codeOf(err)}
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		full.Message = carrier.GRPCStatus().Message()
		for _, detail := range carrier.GRPCStatus().Details() {
			if message, ok := detail.(proto.Message); ok {
				raw, err := protojson.Marshal(message)
				if err != nil {
					return err
				}
				full.Details = append(full.Details, json.RawMessage(raw))
			}
		}
	}
	return full
}

func codeOf(err error) string {
	var carrier interface{ GRPCStatus() *status.Status }
	var described *control.Error
	switch {
	case errors.As(err, &described):
		return described.Code
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, ttrpc.ErrClosed):
		return "closed"
	case errors.Is(err, ttrpc.ErrProtocol):
		return "protocol"
	case errors.Is(err, io.EOF):
		return "eof"
	case errors.As(err, &carrier):
		return carrier.GRPCStatus().Code().String()
	}
	return codes.Unknown.String() + ": " + fmt.Sprintf("%T", err)
}
