package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func bytesOf(data []byte) *wrapperspb.BytesValue { return wrapperspb.Bytes(data) }

type loadArgs struct {
	Count     int   `json:"count"`
	Callers   int   `json:"callers"`
	Sizes     []int `json:"sizes"`
	TimeoutMs int   `json:"timeout_ms"`
}

// tally has the results of a load. A wrong answer is one with other bytes than requested.
type tally struct {
	lock   sync.Mutex
	done   int
	wrong  int
	errors map[string]int
	taken  []float64
}

func (t *tally) add(begin time.Time, right bool, err error) {
	taken := float64(time.Since(begin).Nanoseconds()) / 1e3
	t.lock.Lock()
	defer t.lock.Unlock()
	t.done++
	switch {
	case err != nil:
		t.errors[codeOf(err)]++
	case !right:
		t.wrong++
	default:
		t.taken = append(t.taken, taken)
	}
}

func (t *tally) result(begin time.Time) map[string]any {
	result := map[string]any{
		"done": t.done, "wrong": t.wrong, "errors": t.errors, "seconds": time.Since(begin).Seconds(),
	}
	if len(t.taken) > 0 {
		slices.Sort(t.taken)
		result["p50_us"] = t.taken[len(t.taken)/2]
		result["p99_us"] = t.taken[len(t.taken)*99/100]
	}
	return result
}

// spread distributes count jobs among callers.
func spread(args loadArgs, job func(caller, i int, t *tally)) map[string]any {
	t := &tally{errors: map[string]int{}}
	begin := time.Now()
	var group sync.WaitGroup
	for caller := range args.Callers {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := caller; i < args.Count; i += args.Callers {
				job(caller, i, t)
			}
		}()
	}
	group.Wait()
	return t.result(begin)
}

// calls makes many concurrent Echo calls; every payload is different, every answer is compared.
func (d *driver) calls(args loadArgs) (any, error) {
	client, err := d.connected()
	if err != nil {
		return nil, err
	}
	return spread(args, func(_, i int, t *tally) {
		payload := numbered(i, args.Sizes)
		ctx := context.Background()
		if args.TimeoutMs > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(args.TimeoutMs)*time.Millisecond)
			defer cancel()
		}
		begin := time.Now()
		var reply wrapperspb.BytesValue
		err := client.Call(ctx, service, "Echo", bytesOf(payload), &reply)
		t.add(begin, bytes.Equal(payload, reply.Value), err)
	}), nil
}

// numbered is a payload of one of the sizes. It begins with its number, if there is room.
func numbered(i int, sizes []int) []byte {
	data := pattern(sizes[i%len(sizes)])
	copy(data, fmt.Sprintf("%d:", i))
	return data
}

func (d *driver) stream(ctx context.Context, method string, client, server bool, req any) (ttrpc.ClientStream, error) {
	c, err := d.connected()
	if err != nil {
		return nil, err
	}
	return c.NewStream(ctx, &ttrpc.StreamDesc{StreamingClient: client, StreamingServer: server}, service, method, req)
}

type sumArgs struct {
	Values []int64 `json:"values"`
}

func (d *driver) sum(args sumArgs) (any, error) {
	stream, err := d.stream(context.Background(), "Sum", true, false, nil)
	if err != nil {
		return nil, describe(err)
	}
	for _, value := range args.Values {
		if err := stream.SendMsg(wrapperspb.Int64(value)); err != nil {
			return nil, describe(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, describe(err)
	}
	var total wrapperspb.Int64Value
	if err := stream.RecvMsg(&total); err != nil {
		return nil, describe(err)
	}
	return total.Value, nil
}

type countArgs struct {
	Method string `json:"method"`
	N      int64  `json:"n"`
}

// count returns what it received and how the stream ended.
func (d *driver) count(args countArgs) (any, error) {
	stream, err := d.stream(context.Background(), args.Method, false, true, wrapperspb.Int64(args.N))
	if err != nil {
		return nil, describe(err)
	}
	seen := []int64{}
	for {
		var next wrapperspb.Int64Value
		if err := stream.RecvMsg(&next); err != nil {
			return map[string]any{"seen": seen, "end": describe(err)}, nil
		}
		seen = append(seen, next.Value)
	}
}

type chatArgs struct {
	Sizes []int `json:"sizes"`
}

func (d *driver) chat(args chatArgs) (any, error) {
	return nil, d.chatOnce(args.Sizes)
}

func (d *driver) chatOnce(sizes []int) error {
	stream, err := d.stream(context.Background(), "Chat", true, true, nil)
	if err != nil {
		return describe(err)
	}
	for i := range sizes {
		payload := numbered(i, sizes)
		if err := stream.SendMsg(bytesOf(payload)); err != nil {
			return describe(err)
		}
		var reply wrapperspb.BytesValue
		if err := stream.RecvMsg(&reply); err != nil {
			return describe(err)
		}
		if !bytes.Equal(reply.Value, payload) {
			return errWrong
		}
	}
	if err := stream.CloseSend(); err != nil {
		return describe(err)
	}
	if err := stream.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the stream ended with %w", err)
	}
	return nil
}

var errWrong = errors.New("wrong answer")

// streams runs many concurrent streams of all three kinds.
func (d *driver) streams(args loadArgs) (any, error) {
	return spread(args, func(caller, i int, t *tally) {
		begin := time.Now()
		var err error
		switch i % 3 {
		case 0:
			var total any
			total, err = d.sum(sumArgs{Values: []int64{int64(i), 2, 3}})
			if err == nil && total != int64(i+5) {
				err = errWrong
			}
		case 1:
			var got any
			got, err = d.count(countArgs{Method: "Count", N: 20})
			if err == nil && len(got.(map[string]any)["seen"].([]int64)) != 20 {
				err = errWrong
			}
		case 2:
			err = d.chatOnce(args.Sizes)
		}
		if errors.Is(err, errWrong) {
			t.add(begin, false, nil)
		} else {
			t.add(begin, true, err)
		}
	}), nil
}
