// stubplugin is a plugin on the Go stub with scripted answers: a control for tests of a runtime, and a
// peer for measurements.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"nri-sync.test/control"
)

var (
	name        = flag.String("name", "gostub", "name to register")
	idx         = flag.String("idx", "50", "index to register")
	socket      = flag.String("socket", "", "socket of the runtime")
	count       = flag.Int("count", 1, "plugins, each with a connection, the next index, and its number after its name")
	events      = flag.String("events", "", "events to subscribe to; all by default")
	env         = flag.Int("env", 0, "environment variables in each adjustment")
	mounts      = flag.Int("mounts", 0, "mounts in each adjustment")
	annotations = flag.Int("annotations", 0, "annotations in each adjustment")
	size        = flag.Int("size", 0, "bytes of padding in each adjustment")
	updates     = flag.Int("updates", 0, "updates of other containers in each answer that may have some")
	reject      = flag.String("reject", "", "reason to reject every adjustment")
	failure     = flag.String("error", "", "error of every event handler")
	trace       = flag.Bool("trace", false, "report each event")
	reconnect   = flag.Bool("reconnect", false, "start again when the connection is lost")
)

type plugin struct {
	name, idx string
	stub      stub.Stub
}

type plugins []*plugin

func main() {
	flag.Parse()
	log.Set(silent{})
	all := makePlugins()
	control.Serve(nil, map[string]control.Handler{
		"start": control.Bind(func(struct{}) (any, error) { return all.start() }),
		"restart": control.Bind(func(struct{}) (any, error) {
			all.stop()
			return all.start()
		}),
		"stop":   control.Bind(func(struct{}) (any, error) { all.stop(); return nil, nil }),
		"update": control.Bind(all[0].update),
	})
}

func makePlugins() plugins {
	if *count == 1 {
		return plugins{newPlugin(*name, *idx)}
	}
	first, err := strconv.Atoi(*idx)
	if err != nil {
		control.Fatal("%v", err)
	}
	var all plugins
	for i := range *count {
		all = append(all, newPlugin(fmt.Sprintf("%s%d", *name, i), fmt.Sprintf("%02d", first+i)))
	}
	return all
}

// start starts the stubs one after the other, and returns the duration in microseconds.
func (all plugins) start() (any, error) {
	begin := time.Now()
	for _, p := range all {
		if err := p.stub.Start(context.Background()); err != nil {
			return nil, err
		}
	}
	return float64(time.Since(begin).Nanoseconds()) / 1e3, nil
}

func (all plugins) stop() {
	for _, p := range all {
		p.stub.Stop()
	}
}

func newPlugin(name, idx string) *plugin {
	p := &plugin{name: name, idx: idx}
	p.renew()
	return p
}

// renew creates a new stub, because a stub that has failed to start never starts again.
func (p *plugin) renew() {
	options := []stub.Option{
		stub.WithPluginName(p.name), stub.WithPluginIdx(p.idx),
		stub.WithOnClose(func() {
			control.Emit("closed", nil)
			if *reconnect {
				p.renew()
				if err := p.stub.Start(context.Background()); err != nil {
					control.Emit("log", err.Error())
				}
			}
		}),
	}
	if *socket != "" {
		options = append(options, stub.WithSocketPath(*socket))
	}
	s, err := stub.New(p, options...)
	if err != nil {
		control.Fatal("%v", err)
	}
	p.stub = s
}

type updateArgs struct {
	Updates []json.RawMessage `json:"updates"`
}

// update sends an unsolicited update and returns those that failed.
func (p *plugin) update(args updateArgs) (any, error) {
	var list []*api.ContainerUpdate
	for _, raw := range args.Updates {
		update := &api.ContainerUpdate{}
		if err := protojson.Unmarshal(raw, update); err != nil {
			return nil, err
		}
		list = append(list, update)
	}
	failed, err := p.stub.UpdateContainers(list)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, update := range failed {
		ids = append(ids, update.GetContainerId())
	}
	return ids, nil
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	control.Emit("configure", map[string]any{"config": config, "runtime": runtime, "version": version})
	if *events == "" {
		return 0, nil
	}
	return api.ParseEventMask(*events)
}

func (p *plugin) Synchronize(
	_ context.Context, pods []*api.PodSandbox, containers []*api.Container,
) ([]*api.ContainerUpdate, error) {
	ids := []string{}
	for _, container := range containers {
		ids = append(ids, container.Id)
	}
	sort.Strings(ids)
	control.Emit("synchronize", map[string]any{"pods": len(pods), "containers": len(containers), "ids": ids[:min(len(ids), 10)]})
	return nil, nil
}

// seen reports an event, and fails if the script requires that.
func seen(event string, messages ...proto.Message) error {
	if *trace {
		list := []json.RawMessage{}
		for _, message := range messages {
			raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
			if err != nil {
				return err
			}
			list = append(list, raw)
		}
		control.Emit("event", map[string]any{"name": event, "args": list})
	}
	if *failure != "" {
		return errors.New(*failure)
	}
	return nil
}

func (p *plugin) adjustment() *api.ContainerAdjustment {
	adjust := &api.ContainerAdjustment{}
	for i := range *env {
		adjust.AddEnv(fmt.Sprintf("%s_%d", p.name, i), "value")
	}
	for i := range *mounts {
		adjust.AddMount(&api.Mount{
			Destination: fmt.Sprintf("/mnt/%s/%d", p.name, i), Type: "bind", Source: "/src", Options: []string{"ro"},
		})
	}
	for i := range *annotations {
		adjust.AddAnnotation(fmt.Sprintf("%s/%d", p.name, i), "value")
	}
	if *size > 0 {
		adjust.AddAnnotation(p.name+"/padding", strings.Repeat("x", *size))
	}
	return adjust
}

func others() []*api.ContainerUpdate {
	var list []*api.ContainerUpdate
	for i := range *updates {
		update := &api.ContainerUpdate{}
		update.SetContainerId(fmt.Sprintf("other%d", i))
		update.SetLinuxCPUShares(uint64(i + 2))
		list = append(list, update)
	}
	return list
}

func (p *plugin) CreateContainer(
	_ context.Context, pod *api.PodSandbox, container *api.Container,
) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := seen("CreateContainer", pod, container); err != nil {
		return nil, nil, err
	}
	return p.adjustment(), others(), nil
}

func (p *plugin) UpdateContainer(
	_ context.Context, pod *api.PodSandbox, container *api.Container, resources *api.LinuxResources,
) ([]*api.ContainerUpdate, error) {
	return others(), seen("UpdateContainer", pod, container, resources)
}

func (p *plugin) StopContainer(
	_ context.Context, pod *api.PodSandbox, container *api.Container,
) ([]*api.ContainerUpdate, error) {
	return others(), seen("StopContainer", pod, container)
}

func (p *plugin) UpdatePodSandbox(
	_ context.Context, pod *api.PodSandbox, overhead, resources *api.LinuxResources,
) error {
	return seen("UpdatePodSandbox", pod, overhead, resources)
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, req *api.ValidateContainerAdjustmentRequest) error {
	if *reject != "" {
		return errors.New(*reject)
	}
	return seen("ValidateContainerAdjustment", req)
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return seen("RunPodSandbox", pod)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return seen("PostUpdatePodSandbox", pod)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return seen("StopPodSandbox", pod)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return seen("RemovePodSandbox", pod)
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return seen("PostCreateContainer", pod, container)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return seen("StartContainer", pod, container)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return seen("PostStartContainer", pod, container)
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return seen("PostUpdateContainer", pod, container)
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return seen("RemoveContainer", pod, container)
}

// silent keeps the stub's log out of the standard error, which a failing test shows.
type silent struct{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Infof(context.Context, string, ...any)  {}
func (silent) Warnf(context.Context, string, ...any)  {}
func (silent) Errorf(_ context.Context, format string, args ...any) {
	control.Emit("log", fmt.Sprintf(format, args...))
}
