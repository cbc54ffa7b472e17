// Package driver runs the Go runtime side of NRI for a test's commands, in any version.
//
// Each program in a neighbouring directory pins one version, and passes the differences of that version.
package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/log"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"nri-sync.test/control"
)

// Version has the differences between versions of the runtime side.
type Version struct {
	Number string
	// Relays are the requests of this version by RPC name.
	Relays map[string]Relay
	// Block blocks the synchronization of plugins, and returns a function that unblocks it; nil if unknown.
	Block func(*adaptation.Adaptation) func()
}

// Relay parses one request, and sends it to the plugins.
type Relay struct {
	parse func([]byte) (proto.Message, error)
	call  func(context.Context, *adaptation.Adaptation, proto.Message) (proto.Message, error)
}

// message is a pointer to a generated struct.
type message[T any] interface {
	*T
	proto.Message
}

// Unary makes a relay of an adaptation method with a response.
func Unary[Q, P any, QP message[Q], PP message[P]](
	method func(*adaptation.Adaptation, context.Context, QP) (PP, error),
) Relay {
	return Relay{
		parse: parse[Q, QP],
		call: func(ctx context.Context, a *adaptation.Adaptation, req proto.Message) (proto.Message, error) {
			rpl, err := method(a, ctx, req.(QP))
			if err != nil || rpl == nil {
				return nil, err
			}
			return rpl, nil
		},
	}
}

// Event makes a relay of an adaptation method without a response.
func Event[Q any, QP message[Q]](method func(*adaptation.Adaptation, context.Context, QP) error) Relay {
	return Relay{
		parse: parse[Q, QP],
		call: func(ctx context.Context, a *adaptation.Adaptation, req proto.Message) (proto.Message, error) {
			return nil, method(a, ctx, req.(QP))
		},
	}
}

func parse[Q any, QP message[Q]](raw []byte) (proto.Message, error) {
	req := QP(new(Q))
	if len(raw) == 0 {
		return req, nil
	}
	return req, unmarshal(raw, req)
}

// Older versions know fewer fields; a test gives the same request to all of them.
func unmarshal(raw []byte, m proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, m)
}

func marshal(m proto.Message) (json.RawMessage, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
}

// options of a runtime, from the test; they are kept for the next start.
type options struct {
	Socket         string            `json:"socket"`
	PluginPath     string            `json:"plugin_path"`
	ConfigPath     string            `json:"config_path"`
	RuntimeName    string            `json:"runtime_name"`
	RuntimeVersion string            `json:"runtime_version"`
	RegistrationMs int               `json:"registration_timeout_ms"`
	RequestMs      int               `json:"request_timeout_ms"`
	Pods           []json.RawMessage `json:"pods"`
	Containers     []json.RawMessage `json:"containers"`
	MakePods       int               `json:"make_pods"`
	MakeContainers int               `json:"make_containers"`
	MakeSize       int               `json:"make_size"`
	SyncError      string            `json:"sync_error"`
	// Trace reports every RPC to a plugin as an event "rpc".
	Trace bool `json:"trace"`
	script
}

// script has the settings that can change while the runtime runs.
type script struct {
	RegisterError   string   `json:"register_error"`
	RegisterDelayMs int      `json:"register_delay_ms"`
	UpdateError     string   `json:"update_error"`
	UpdateDelayMs   int      `json:"update_delay_ms"`
	UpdateFail      []string `json:"update_fail"`
	UpdateFailAll   bool     `json:"update_fail_all"`
}

type driver struct {
	version    Version
	lock       sync.Mutex // guards the fields below; held during Start and Stop, not during requests
	options    options
	pods       []*adaptation.PodSandbox
	containers []*adaptation.Container
	adaptation *adaptation.Adaptation
	unblock    func()

	scriptLock sync.Mutex
	current    script
}

// Main serves a test's commands with the linked version.
func Main(version Version) {
	d := &driver{version: version}
	log.Set(logger{})
	control.Serve(map[string]any{"version": version.Number}, map[string]control.Handler{
		"start":    control.Bind(d.start),
		"stop":     control.Bind(d.stop),
		"restart":  control.Bind(d.restart),
		"cut":      control.Bind(d.cut),
		"script":   control.Bind(d.rescript),
		"request":  control.Bind(d.request),
		"bench":    control.Bind(d.bench),
		"block":    control.Bind(d.block),
		"unblock":  control.Bind(d.unblockSync),
		"memstats": control.Bind(d.memstats),
	})
}

func (d *driver) start(o options) (any, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.adaptation != nil {
		return nil, errors.New("the runtime is running already")
	}
	pods, containers, err := o.state()
	if err != nil {
		return nil, err
	}
	d.options, d.pods, d.containers = o, pods, containers
	d.setScript(o.script)
	return nil, d.startLocked()
}

func (d *driver) startLocked() error {
	o := &d.options
	adaptation.SetPluginRegistrationTimeout(milliseconds(o.RegistrationMs, adaptation.DefaultPluginRegistrationTimeout))
	adaptation.SetPluginRequestTimeout(milliseconds(o.RequestMs, adaptation.DefaultPluginRequestTimeout))
	name, version := o.RuntimeName, o.RuntimeVersion
	if name == "" {
		name, version = "containerd", "v2.4.0"
	}
	missing := filepath.Join(filepath.Dir(o.Socket), "none")
	a, err := adaptation.New(name, version, d.synchronize, d.update,
		adaptation.WithSocketPath(o.Socket),
		adaptation.WithPluginPath(either(o.PluginPath, missing)),
		adaptation.WithPluginConfigPath(either(o.ConfigPath, missing)),
		adaptation.WithTTRPCOptions(d.clientOptions(), d.serverOptions()),
	)
	if err != nil {
		return err
	}
	if err := a.Start(); err != nil {
		a.Stop()
		return err
	}
	d.adaptation = a
	return nil
}

func milliseconds(n int, otherwise time.Duration) time.Duration {
	if n == 0 {
		return otherwise
	}
	return time.Duration(n) * time.Millisecond
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

type stopArgs struct {
	// Keep leaves the plugins' connections open, as the reference does; by default they are shut
	// down, as when the process of a runtime ends.
	Keep bool `json:"keep"`
}

func (d *driver) stop(args stopArgs) (any, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.adaptation == nil {
		return nil, errors.New("the runtime is not running")
	}
	return d.stopLocked(args)
}

func (d *driver) stopLocked(args stopArgs) (any, error) {
	d.adaptation.Stop()
	d.adaptation = nil
	if args.Keep {
		return 0, nil
	}
	return shutdownConnections(d.options.Socket)
}

func (d *driver) restart(args stopArgs) (any, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.adaptation == nil {
		return nil, errors.New("the runtime is not running")
	}
	if _, err := d.stopLocked(args); err != nil {
		return nil, err
	}
	return nil, d.startLocked()
}

// cut shuts down the plugins' connections. The runtime continues.
func (d *driver) cut(struct{}) (any, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	return shutdownConnections(d.options.Socket)
}

func (d *driver) rescript(s script) (any, error) {
	d.setScript(s)
	return nil, nil
}

func (d *driver) setScript(s script) {
	d.scriptLock.Lock()
	defer d.scriptLock.Unlock()
	d.current = s
}

func (d *driver) script() script {
	d.scriptLock.Lock()
	defer d.scriptLock.Unlock()
	return d.current
}

func (d *driver) running() (*adaptation.Adaptation, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.adaptation == nil {
		return nil, errors.New("the runtime is not running")
	}
	return d.adaptation, nil
}

type requestArgs struct {
	Op        string          `json:"op"`
	Request   json.RawMessage `json:"request"`
	TimeoutMs int             `json:"timeout_ms"`
}

func (d *driver) prepare(args requestArgs) (*adaptation.Adaptation, Relay, proto.Message, error) {
	a, err := d.running()
	if err != nil {
		return nil, Relay{}, nil, err
	}
	relay, ok := d.version.Relays[args.Op]
	if !ok {
		return nil, Relay{}, nil, fmt.Errorf("%s has no request %q", d.version.Number, args.Op)
	}
	req, err := relay.parse(args.Request)
	return a, relay, req, err
}

func (d *driver) request(args requestArgs) (any, error) {
	a, relay, req, err := d.prepare(args)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if args.TimeoutMs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, milliseconds(args.TimeoutMs, 0))
		defer cancel()
	}
	rpl, err := relay.call(ctx, a, req)
	if err != nil {
		return nil, describe(err)
	}
	if rpl == nil {
		return nil, nil
	}
	return marshal(rpl)
}

func (d *driver) block(struct{}) (any, error) {
	if d.version.Block == nil {
		return nil, fmt.Errorf("%s cannot block plugin synchronization", d.version.Number)
	}
	a, err := d.running()
	if err != nil {
		return nil, err
	}
	unblock := d.version.Block(a)
	d.lock.Lock()
	defer d.lock.Unlock()
	d.unblock = unblock
	return nil, nil
}

func (d *driver) unblockSync(struct{}) (any, error) {
	d.lock.Lock()
	unblock := d.unblock
	d.unblock = nil
	d.lock.Unlock()
	if unblock == nil {
		return nil, errors.New("plugin synchronization is not blocked")
	}
	unblock()
	return nil, nil
}
