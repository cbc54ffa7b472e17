package driver

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
)

type benchArgs struct {
	requestArgs
	Count  int `json:"count"`
	Warmup int `json:"warmup"`
	// Microseconds before each request.
	Pause int `json:"pause"`
}

// bench sends one request many times, and returns the latencies that the runtime has measured.
func (d *driver) bench(args benchArgs) (any, error) {
	if args.Count < 1 {
		return nil, errors.New("count must be at least 1")
	}
	a, relay, req, err := d.prepare(args.requestArgs)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	taken := make([]float64, 0, args.Count)
	for i := range args.Warmup + args.Count {
		// The runtime changes its argument.
		fresh := proto.Clone(req)
		time.Sleep(time.Duration(args.Pause) * time.Microsecond)
		begin := time.Now()
		if _, err := relay.call(ctx, a, fresh); err != nil {
			return nil, describe(err)
		}
		if i >= args.Warmup {
			taken = append(taken, float64(time.Since(begin).Nanoseconds())/1e3)
		}
	}
	slices.Sort(taken)
	sum := 0.0
	for _, t := range taken {
		sum += t
	}
	at := func(q float64) float64 { return taken[int(q*float64(len(taken)-1))] }
	return map[string]any{
		"count": len(taken), "mean_us": sum / float64(len(taken)), "min_us": taken[0],
		"p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "max_us": at(1),
	}, nil
}

// memstats returns the figures that a leak in the peer itself would increase.
func (d *driver) memstats(struct{}) (any, error) {
	return map[string]any{"goroutines": runtime.NumGoroutine()}, nil
}
