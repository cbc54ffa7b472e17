// Merges, validates and applies the answers of plugins with the Go
// implementation, to compare the results with those of nri_sync.
//
// No sockets are involved: the plugins of a case are builtin ones with a fixed
// answer. Messages are base64 of their bytes; see ../control for the commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/adaptation/builtin"
	"github.com/containerd/nri/pkg/api"
	validator "github.com/containerd/nri/plugins/default-validator"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"nri-sync.test/control"
)

// mergeCase is one request, and the plugins that answer it.
type mergeCase struct {
	Op               string                            `json:"op"`
	Request          []byte                            `json:"request"`
	Plugins          []plugin                          `json:"plugins"`
	DefaultValidator *validator.DefaultValidatorConfig `json:"defaultValidator"`
}

type plugin struct {
	Index string `json:"index"`
	Name  string `json:"name"`
	// Reply is the response; without one the plugin does not subscribe to the request.
	Reply []byte `json:"reply"`
	// Null makes the plugin answer with nothing.
	Null bool `json:"null"`
	// Validates makes it a validator, which rejects if it has a reason.
	Validates bool   `json:"validates"`
	Reason    string `json:"reason"`
}

type mergeResult struct {
	Error    string   `json:"error"`
	Response []byte   `json:"response"`
	Null     bool     `json:"null"` // the last update of the response was null
	Seen     [][]byte `json:"seen"` // the request as each plugin saw it
	// Validation is the request that validators got.
	Validation []byte `json:"validation"`
	Panic      string `json:"panic"`
}

type run struct {
	sync.Mutex
	result mergeResult
}

func main() {
	logrus.SetOutput(io.Discard)
	control.Serve(nil, map[string]control.Handler{
		"merge":    control.Bind(each(merge)),
		"generate": control.Bind(each(generate)),
		"respec":   control.Bind(each(respec)),
	})
}

type batch[C any] struct {
	Cases []C `json:"cases"`
}

func each[C, R any](do func(C) R) func(batch[C]) (any, error) {
	return func(b batch[C]) (any, error) {
		results := make([]R, 0, len(b.Cases))
		for _, c := range b.Cases {
			results = append(results, do(c))
		}
		return results, nil
	}
}

func bytes(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		control.Fatal("marshal %T: %v", m, err)
	}
	return data
}

func parse[M proto.Message](data []byte, m M) M {
	if err := proto.Unmarshal(data, m); err != nil {
		control.Fatal("unmarshal %T: %v", m, err)
	}
	return m
}

func merge(c mergeCase) (result mergeResult) {
	r := &run{}
	defer func() {
		if p := recover(); p != nil {
			r.result.Panic = fmt.Sprint(p)
		}
		result = r.result
	}()
	nowhere := filepath.Join("/nonexistent", "nri")
	options := []adaptation.Option{
		adaptation.WithPluginPath(nowhere),
		adaptation.WithPluginConfigPath(nowhere),
		adaptation.WithDisabledExternalConnections(),
	}
	for _, p := range c.Plugins {
		options = append(options, adaptation.WithBuiltinPlugins(r.plugin(c.Op, p)))
	}
	if c.DefaultValidator != nil {
		options = append(options, adaptation.WithDefaultValidator(c.DefaultValidator))
	}
	a, err := adaptation.New("difftest", "v0", synchronize, update, options...)
	if err == nil {
		err = a.Start()
	}
	if err != nil {
		control.Fatal("%v", err)
	}
	defer a.Stop()
	response, err := relay(a, c)
	if err != nil {
		r.result.Error = err.Error()
		return
	}
	if u, ok := response.(*api.UpdateContainerResponse); ok {
		if last := len(u.Update) - 1; u.Update[last] == nil {
			r.result.Null = true
			u.Update = u.Update[:last]
		}
	}
	r.result.Response = bytes(response)
	return
}

func relay(a *adaptation.Adaptation, c mergeCase) (proto.Message, error) {
	ctx := context.Background()
	switch c.Op {
	case "CreateContainer":
		return a.CreateContainer(ctx, parse(c.Request, &api.CreateContainerRequest{}))
	case "UpdateContainer":
		return a.UpdateContainer(ctx, parse(c.Request, &api.UpdateContainerRequest{}))
	default:
		return a.StopContainer(ctx, parse(c.Request, &api.StopContainerRequest{}))
	}
}

func synchronize(ctx context.Context, cb adaptation.SyncCB) error {
	_, err := cb(ctx, nil, nil)
	return err
}

func update(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return nil, nil
}

// plugin creates a builtin plugin that is subscribed to the events of its handlers.
func (r *run) plugin(op string, p plugin) *builtin.BuiltinPlugin {
	b := &builtin.BuiltinPlugin{Index: p.Index, Base: p.Name}
	// Without any handler it would be subscribed to everything.
	b.Handlers.RemovePodSandbox = func(context.Context, *api.RemovePodSandboxRequest) error { return nil }
	if p.Validates {
		b.Handlers.ValidateContainerAdjustment = func(_ context.Context, q *api.ValidateContainerAdjustmentRequest) error {
			r.Lock()
			defer r.Unlock()
			r.result.Validation = bytes(q)
			if p.Reason == "" {
				return nil
			}
			return errors.New(p.Reason)
		}
	}
	if p.Reply == nil {
		return b
	}
	switch op {
	case "CreateContainer":
		b.Handlers.CreateContainer = answer[*api.CreateContainerRequest](r, p, &api.CreateContainerResponse{})
	case "UpdateContainer":
		b.Handlers.UpdateContainer = answer[*api.UpdateContainerRequest](r, p, &api.UpdateContainerResponse{})
	default:
		b.Handlers.StopContainer = answer[*api.StopContainerRequest](r, p, &api.StopContainerResponse{})
	}
	return b
}

func answer[Q, P proto.Message](r *run, p plugin, response P) func(context.Context, Q) (P, error) {
	parse(p.Reply, response)
	return func(_ context.Context, request Q) (P, error) {
		r.Lock()
		defer r.Unlock()
		r.result.Seen = append(r.result.Seen, bytes(request))
		if p.Null {
			var nothing P
			return nothing, nil
		}
		return response, nil
	}
}
