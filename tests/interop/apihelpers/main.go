// Calls the helpers of the Go package api, to compare those of nri_sync with
// them.
//
// A call is a line of JSON, {"call": name, "args": [...]}, and so is its
// answer: {"results": [...]} or {"panic": text}. The name is that of a function
// below, or "<Message>.<Method>"; the first argument of a method is its
// receiver, and the first of its results is the receiver after the call.
// {"each": [call, ...], "receiver": message} makes calls to methods of one
// receiver, without it, and answers with the receiver and all other results.
//
// Messages are written as base64 of their bytes, an absent one as null. Go
// values that have to be of a certain type, for parameters that take any, are
// {"type": "int64", "value": 5}.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/plugin"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

type call struct {
	Call     string            `json:"call"`
	Args     []json.RawMessage `json:"args"`
	Receiver json.RawMessage   `json:"receiver"`
	Each     []call            `json:"each"`
}

var (
	message   = reflect.TypeFor[proto.Message]()
	failure   = reflect.TypeFor[error]()
	anything  = reflect.TypeFor[any]()
	functions = map[string]any{
		"Bool":                       api.Bool,
		"CheckPluginIndex":           api.CheckPluginIndex,
		"CheckPluginName":            api.CheckPluginName,
		"ClearRemovalMarker":         api.ClearRemovalMarker,
		"Event.PrettyName":           api.Event.PrettyName,
		"EventMask.PrettyString":     (*api.EventMask).PrettyString,
		"FileMode":                   api.FileMode,
		"FromOCIEnv":                 api.FromOCIEnv,
		"FromOCIHooks":               api.FromOCIHooks,
		"FromOCILinuxDevices":        api.FromOCILinuxDevices,
		"FromOCILinuxIOPriority":     api.FromOCILinuxIOPriority,
		"FromOCILinuxMemoryPolicy":   api.FromOCILinuxMemoryPolicy,
		"FromOCILinuxNamespaces":     api.FromOCILinuxNamespaces,
		"FromOCILinuxNetDevices":     api.FromOCILinuxNetDevices,
		"FromOCILinuxResources":      api.FromOCILinuxResources,
		"FromOCILinuxScheduler":      api.FromOCILinuxScheduler,
		"FromOCILinuxSeccomp":        api.FromOCILinuxSeccomp,
		"FromOCIMounts":              api.FromOCIMounts,
		"GetEffectiveAnnotation":     plugin.GetEffectiveAnnotation,
		"InferVersionFromRuntime":    api.InferVersionFromRuntime,
		"Int":                        api.Int,
		"Int32":                      api.Int32,
		"Int64":                      api.Int64,
		"IsMarkedForRemoval":         api.IsMarkedForRemoval,
		"MarkForRemoval":             api.MarkForRemoval,
		"NewOwningPlugins":           api.NewOwningPlugins,
		"ParseEventMask":             api.ParseEventMask,
		"ParsePluginName":            api.ParsePluginName,
		"RepeatedString":             api.RepeatedString,
		"String":                     api.String,
		"ToOCILinuxNetDevices":       api.ToOCILinuxNetDevices,
		"ToOCILinuxSyscalls":         api.ToOCILinuxSyscalls,
		"UInt32":                     api.UInt32,
		"UInt64":                     api.UInt64,
		"MountPropagation":           mountPropagation,
		"RequiredPluginsAnnotation":  func() string { return plugin.RequiredPluginsAnnotation },
		"DefaultSocketPath":          func() string { return api.DefaultSocketPath },
		"PluginNameEnvVar":           func() string { return api.PluginNameEnvVar },
		"PluginIdxEnvVar":            func() string { return api.PluginIdxEnvVar },
		"PluginSocketEnvVar":         func() string { return api.PluginSocketEnvVar },
		"DefaultRegistrationTimeout": func() float64 { return api.DefaultPluginRegistrationTimeout.Seconds() },
		"DefaultRequestTimeout":      func() float64 { return api.DefaultPluginRequestTimeout.Seconds() },
		"SELinuxRelabel":             func() string { return api.SELinuxRelabel },
		"UnlimitedPidsLimit":         func() int { return api.UnlimitedPidsLimit },
	}
)

func mountPropagation(m *api.Mount) string {
	propagation := ""
	m.ToOCI(&propagation)
	return propagation
}

func main() {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var c call
		if err := json.Unmarshal(line, &c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(answer(c)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func answer(c call) (reply map[string]any) {
	defer func() {
		if p := recover(); p != nil {
			reply = map[string]any{"panic": fmt.Sprint(p)}
		}
	}()
	if c.Each != nil {
		return map[string]any{"results": each(c)}
	}
	function := reflect.ValueOf(functions[c.Call])
	if function.IsValid() {
		return map[string]any{"results": results(function, c.Args)}
	}
	kind, method, _ := strings.Cut(c.Call, ".")
	receiver := decode(c.Args[0], messageType(kind))
	values := results(receiver.MethodByName(method), c.Args[1:])
	return map[string]any{"results": append([]any{encode(receiver)}, values...)}
}

func each(c call) []any {
	kind, _, _ := strings.Cut(c.Each[0].Call, ".")
	receiver := decode(c.Receiver, messageType(kind))
	all := []any{}
	for _, one := range c.Each {
		_, method, _ := strings.Cut(one.Call, ".")
		all = append(all, results(receiver.MethodByName(method), one.Args))
	}
	return append([]any{encode(receiver)}, all...)
}

func messageType(name string) reflect.Type {
	full := protoreflect.FullName("nri.pkg.api.v1alpha1." + name)
	found, err := protoregistry.GlobalTypes.FindMessageByName(full)
	if err != nil {
		panic(err)
	}
	return reflect.TypeOf(found.New().Interface())
}

func results(function reflect.Value, args []json.RawMessage) []any {
	signature := function.Type()
	in := make([]reflect.Value, len(args))
	for i, arg := range args {
		if signature.IsVariadic() && i >= signature.NumIn()-1 {
			in[i] = decode(arg, signature.In(signature.NumIn()-1).Elem())
		} else {
			in[i] = decode(arg, signature.In(i))
		}
	}
	values := []any{}
	for _, out := range function.Call(in) {
		values = append(values, encode(out))
	}
	return values
}

func decode(arg json.RawMessage, kind reflect.Type) reflect.Value {
	switch {
	case kind.Implements(message):
		if string(arg) == "null" {
			return reflect.Zero(kind)
		}
		var bytes []byte
		check(json.Unmarshal(arg, &bytes))
		value := reflect.New(kind.Elem())
		check(proto.Unmarshal(bytes, value.Interface().(proto.Message)))
		return value
	case kind.Kind() == reflect.Slice && kind.Elem().Implements(message):
		var items []json.RawMessage
		check(json.Unmarshal(arg, &items))
		list := reflect.MakeSlice(kind, 0, len(items))
		for _, item := range items {
			list = reflect.Append(list, decode(item, kind.Elem()))
		}
		return list
	case kind.Kind() == reflect.Map && kind.Elem().Implements(message):
		var items map[string]json.RawMessage
		check(json.Unmarshal(arg, &items))
		dict := reflect.MakeMap(kind)
		for key, item := range items {
			dict.SetMapIndex(reflect.ValueOf(key), decode(item, kind.Elem()))
		}
		return dict
	case kind == anything:
		return native(arg)
	}
	value := reflect.New(kind)
	check(json.Unmarshal(arg, value.Interface()))
	return value.Elem()
}

func native(arg json.RawMessage) reflect.Value {
	var typed struct {
		Type  string          `json:"type"`
		Value json.RawMessage `json:"value"`
	}
	check(json.Unmarshal(arg, &typed))
	kinds := map[string]reflect.Type{
		"string":      reflect.TypeFor[string](),
		"[]string":    reflect.TypeFor[[]string](),
		"bool":        reflect.TypeFor[bool](),
		"int":         reflect.TypeFor[int](),
		"int32":       reflect.TypeFor[int32](),
		"int64":       reflect.TypeFor[int64](),
		"uint32":      reflect.TypeFor[uint32](),
		"uint64":      reflect.TypeFor[uint64](),
		"float64":     reflect.TypeFor[float64](),
		"os.FileMode": reflect.TypeFor[os.FileMode](),
	}
	return decode(typed.Value, kinds[typed.Type])
}

func encode(value reflect.Value) any {
	kind := value.Type()
	switch {
	case kind.Implements(message):
		if value.IsNil() {
			return nil
		}
		options := proto.MarshalOptions{Deterministic: true}
		bytes, err := options.Marshal(value.Interface().(proto.Message))
		check(err)
		return base64.StdEncoding.EncodeToString(bytes)
	case kind.Implements(failure):
		if value.IsNil() {
			return nil
		}
		return value.Interface().(error).Error()
	case kind.Kind() == reflect.Slice && kind.Elem().Implements(message):
		list := []any{}
		for i := range value.Len() {
			list = append(list, encode(value.Index(i)))
		}
		return list
	case kind.Kind() == reflect.Map && kind.Elem().Implements(message):
		dict := map[string]any{}
		for _, key := range value.MapKeys() {
			dict[key.String()] = encode(value.MapIndex(key))
		}
		return dict
	}
	return value.Interface()
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
