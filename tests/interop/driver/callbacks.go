package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nri-sync.test/control"
)

// state builds the pods and containers for the synchronization of plugins.
func (o *options) state() ([]*adaptation.PodSandbox, []*adaptation.Container, error) {
	var pods []*adaptation.PodSandbox
	var containers []*adaptation.Container
	for _, raw := range o.Pods {
		pod := &adaptation.PodSandbox{}
		if err := unmarshal(raw, pod); err != nil {
			return nil, nil, fmt.Errorf("bad pod: %w", err)
		}
		pods = append(pods, pod)
	}
	for _, raw := range o.Containers {
		container := &adaptation.Container{}
		if err := unmarshal(raw, container); err != nil {
			return nil, nil, fmt.Errorf("bad container: %w", err)
		}
		containers = append(containers, container)
	}
	padding := strings.Repeat("x", o.MakeSize)
	for i := range o.MakePods {
		pods = append(pods, &adaptation.PodSandbox{
			Id: fmt.Sprintf("pod%d", i), Name: fmt.Sprintf("pod-%d", i), Namespace: "default",
		})
	}
	for i := range o.MakeContainers {
		containers = append(containers, &adaptation.Container{
			Id:           fmt.Sprintf("ctr%d", i),
			PodSandboxId: fmt.Sprintf("pod%d", i%max(o.MakePods, 1)),
			Name:         fmt.Sprintf("ctr-%d", i),
			Annotations:  map[string]string{"padding": padding},
		})
	}
	return pods, containers, nil
}

func (d *driver) synchronize(ctx context.Context, synchronize adaptation.SyncCB) error {
	// Start holds the lock while it synchronizes the plugins it launched: read without it. No code
	// writes these fields while a runtime is starting or running.
	if d.options.SyncError != "" {
		return errors.New(d.options.SyncError)
	}
	updates, err := synchronize(ctx, d.pods, d.containers)
	data := map[string]any{"updates": updatesJSON(updates)}
	if err != nil {
		data["error"] = err.Error()
	}
	control.Emit("synchronized", data)
	return err
}

func updatesJSON(updates []*adaptation.ContainerUpdate) []json.RawMessage {
	list := []json.RawMessage{}
	for _, update := range updates {
		raw, err := marshal(update)
		if err != nil {
			control.Fatal("cannot encode an update: %v", err)
		}
		list = append(list, raw)
	}
	return list
}

func (d *driver) update(
	_ context.Context, updates []*adaptation.ContainerUpdate,
) ([]*adaptation.ContainerUpdate, error) {
	s := d.script()
	control.Emit("unsolicited", map[string]any{"updates": updatesJSON(updates)})
	time.Sleep(milliseconds(s.UpdateDelayMs, 0))
	if s.UpdateError != "" {
		return nil, errors.New(s.UpdateError)
	}
	refused := map[string]bool{}
	for _, id := range s.UpdateFail {
		refused[id] = true
	}
	var failed []*adaptation.ContainerUpdate
	for _, update := range updates {
		if s.UpdateFailAll || refused[update.GetContainerId()] {
			failed = append(failed, update)
		}
	}
	return failed, nil
}

// clientOptions report the RPCs to plugins, if the test requests that.
func (d *driver) clientOptions() []ttrpc.ClientOpts {
	if !d.options.Trace {
		return nil
	}
	return []ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(trace)}
}

func trace(
	ctx context.Context, req *ttrpc.Request, rpl *ttrpc.Response, info *ttrpc.UnaryClientInfo, call ttrpc.Invoker,
) error {
	err := call(ctx, req, rpl)
	data := map[string]any{"method": req.Method, "request_bytes": len(req.Payload), "reply_bytes": len(rpl.Payload)}
	switch {
	case err != nil:
		data["error"] = err.Error()
	case rpl.Status != nil:
		data["code"] = codes.Code(rpl.Status.Code).String()
	}
	control.Emit("rpc", data)
	return err
}

// serverOptions let the test refuse or delay registrations.
func (d *driver) serverOptions() []ttrpc.ServerOpt {
	return []ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(
		func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
			if strings.HasSuffix(info.FullMethod, "/RegisterPlugin") {
				s := d.script()
				time.Sleep(milliseconds(s.RegisterDelayMs, 0))
				if s.RegisterError != "" {
					return nil, status.Error(codes.PermissionDenied, s.RegisterError)
				}
			}
			return method(ctx, unmarshal)
		},
	)}
}

// describe converts the error of a request into an answer with its gRPC code, if it has one.
func describe(err error) error {
	full := &control.Error{Message: err.Error()}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		full.Code = "deadline"
	case errors.Is(err, ttrpc.ErrClosed), errors.Is(err, ttrpc.ErrServerClosed):
		full.Code = "closed"
	default:
		var carrier interface{ GRPCStatus() *status.Status }
		if errors.As(err, &carrier) {
			st := carrier.GRPCStatus()
			full.Code, full.Message = st.Code().String(), st.Message()
		}
	}
	return full
}

// logger converts log lines into events: only the log shows which plugins have registered.
type logger struct{}

func (logger) Debugf(context.Context, string, ...any) {}

func (logger) Infof(_ context.Context, format string, args ...any) {
	switch {
	case strings.HasPrefix(format, "plugin %q registered as %q"):
		control.Emit("registered", map[string]any{"name": args[1], "nri_version": third(args)})
	case strings.HasPrefix(format, "plugin %q connected"):
		control.Emit("connected", map[string]any{"name": args[0]})
	case strings.HasPrefix(format, "pre-installed NRI plugin %q synchronization success"):
		control.Emit("connected", map[string]any{"name": args[0]})
	case strings.HasPrefix(format, "connection to plugin %q closed"):
		control.Emit("closed", map[string]any{"name": args[0]})
	case strings.HasPrefix(format, "failed to"):
		control.Emit("log", map[string]any{"level": "info", "text": fmt.Sprintf(format, args...)})
	}
}

func third(args []any) any {
	if len(args) > 2 {
		return args[2]
	}
	return nil
}

func (logger) Warnf(_ context.Context, format string, args ...any) {
	control.Emit("log", map[string]any{"level": "warning", "text": fmt.Sprintf(format, args...)})
}

func (logger) Errorf(_ context.Context, format string, args ...any) {
	if strings.HasPrefix(format, "failed to initialize WASM support") {
		return
	}
	control.Emit("log", map[string]any{"level": "error", "text": fmt.Sprintf(format, args...)})
}
