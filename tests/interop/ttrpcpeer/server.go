package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"nri-sync.test/control"
)

// The service. Streams of bytes and numbers are wrapper messages too.
var description = &ttrpc.ServiceDesc{
	Methods: map[string]ttrpc.Method{
		// BytesValue -> the same BytesValue
		"Echo": unary(func(_ context.Context, req *wrapperspb.BytesValue) (any, error) { return req, nil }),
		// Int64Value n -> BytesValue of n bytes; one that is too large for a message included
		"Sized": unary(func(_ context.Context, req *wrapperspb.Int64Value) (any, error) {
			return wrapperspb.Bytes(pattern(int(req.Value))), nil
		}),
		// Int64Value ms -> Int64Value: nanoseconds left of the deadline at the begin, 0 without one
		"Sleep": unary(sleep),
		// Struct{code, message, detail} -> that status, with the detail as a StringValue
		"Fail": unary(fail),
		// Empty -> Struct of lists
		"Metadata": unary(metadata),
		// Empty -> no message at all, which is an error of the server
		"Nothing": unary(func(context.Context, *emptypb.Empty) (any, error) { return nil, nil }),
		// Empty -> a bare Go error
		"Plain": unary(func(context.Context, *emptypb.Empty) (any, error) { return nil, errors.New("plain error") }),
		// Empty -> half a message, then the process kills itself
		"Die": unary(func(context.Context, *emptypb.Empty) (any, error) { die(); return nil, nil }),
	},
	Streams: map[string]ttrpc.Stream{
		// stream Int64Value -> Int64Value
		"Sum": {Handler: sum, StreamingClient: true},
		// Int64Value n -> stream Int64Value 0 .. n-1
		"Count": {Handler: count(nil), StreamingServer: true},
		// Int64Value n -> stream Int64Value 0 .. n-1, then an error
		"CountThenFail": {Handler: count(status.Error(codes.Aborted, "enough")), StreamingServer: true},
		// stream BytesValue -> stream BytesValue, each answered by itself
		"Chat": {Handler: chat, StreamingClient: true, StreamingServer: true},
	},
}

func unary[Q any, QP interface {
	*Q
	proto.Message
}](serve func(context.Context, QP) (any, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := QP(new(Q))
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		return serve(ctx, req)
	}
}

// pattern is content that reveals lost, repeated or misplaced bytes.
func pattern(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	return data
}

func sleep(ctx context.Context, req *wrapperspb.Int64Value) (any, error) {
	left := int64(0)
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline).Nanoseconds()
	}
	control.Emit("sleeping", map[string]any{"left_ns": left})
	var err error
	select {
	case <-time.After(time.Duration(req.Value) * time.Millisecond):
	case <-ctx.Done():
		err = ctx.Err()
	}
	control.Emit("slept", map[string]any{"left_ns": left, "cancelled": err != nil})
	return wrapperspb.Int64(left), err
}

func fail(_ context.Context, req *structpb.Struct) (any, error) {
	st := status.New(codes.Code(req.Fields["code"].GetNumberValue()), req.Fields["message"].GetStringValue()).Proto()
	if detail, ok := req.Fields["detail"]; ok {
		packed, err := anypb.New(wrapperspb.String(detail.GetStringValue()))
		if err != nil {
			return nil, err
		}
		st.Details = append(st.Details, packed)
	}
	return nil, status.ErrorProto(st)
}

func metadata(ctx context.Context, _ *emptypb.Empty) (any, error) {
	md, _ := ttrpc.GetMetadata(ctx)
	seen := map[string]any{}
	for key, values := range md {
		list := []any{}
		for _, value := range values {
			list = append(list, value)
		}
		seen[key] = list
	}
	return structpb.NewStruct(seen)
}

func sum(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	total := int64(0)
	for {
		var next wrapperspb.Int64Value
		err := stream.RecvMsg(&next)
		if errors.Is(err, io.EOF) {
			return wrapperspb.Int64(total), nil
		}
		if err != nil {
			return nil, err
		}
		total += next.Value
	}
}

func count(end error) ttrpc.StreamHandler {
	return func(_ context.Context, stream ttrpc.StreamServer) (any, error) {
		var req wrapperspb.Int64Value
		if err := stream.RecvMsg(&req); err != nil {
			return nil, err
		}
		for i := range req.Value {
			if err := stream.SendMsg(wrapperspb.Int64(i)); err != nil {
				return nil, err
			}
		}
		return nil, end
	}
}

func chat(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	for {
		var next wrapperspb.BytesValue
		err := stream.RecvMsg(&next)
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if err := stream.SendMsg(&next); err != nil {
			return nil, err
		}
	}
}

// accepted records the connections, for actions for which the server has no call.
type accepted struct {
	net.Listener
	lock  sync.Mutex
	conns []net.Conn
}

var listener accepted

func (l *accepted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.lock.Lock()
		l.conns = append(l.conns, conn)
		l.lock.Unlock()
	}
	return conn, err
}

// die announces a message, sends a part of it and kills the process.
func die() {
	listener.lock.Lock()
	defer listener.lock.Unlock()
	half := make([]byte, 10+100)
	binary.BigEndian.PutUint32(half, 1000)
	binary.BigEndian.PutUint32(half[4:], 1)
	half[8] = 2 // a response
	for _, conn := range listener.conns {
		conn.Write(half)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func closeConnections(struct{}) (any, error) {
	listener.lock.Lock()
	defer listener.lock.Unlock()
	closed := len(listener.conns)
	for _, conn := range listener.conns {
		conn.Close()
	}
	listener.conns = nil
	return closed, nil
}

func serve(path string) {
	server, err := ttrpc.NewServer()
	if err != nil {
		control.Fatal("%v", err)
	}
	server.RegisterService(service, description)
	l, err := net.Listen("unix", path)
	if err != nil {
		control.Fatal("%v", err)
	}
	listener.Listener = l
	go func() {
		err := server.Serve(context.Background(), &listener)
		control.Emit("stopped", map[string]any{"error": err.Error()})
	}()
	control.Serve(nil, map[string]control.Handler{
		"die":   control.Bind(func(struct{}) (any, error) { die(); return nil, nil }),
		"close": control.Bind(closeConnections),
		"shutdown": control.Bind(func(struct{}) (any, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return nil, server.Shutdown(ctx)
		}),
	})
}
