// Builds kustomizations like the command kustomize, and parses manifests like the API server: into the types of the
// API, with an error for each unknown field.
//
//	manifests PATH...
//
// Each PATH is a folder to build, or a file of manifests. The output is a line of JSON with its objects, or with
// an error:
//
//	{"path": "examples/logger", "objects": [{"kind": "DaemonSet", ...}]}
//	{"path": "pod.yaml", "error": "Pod x: unknown field \"spec.foo\""}
package main

import (
	"bufio"
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/kustomize/v5/commands/build"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

type result struct {
	Path    string           `json:"path"`
	Objects []runtime.Object `json:"objects,omitempty"`
	Error   string           `json:"error,omitempty"`
}

func main() {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	codec := json.NewSerializerWithOptions(
		json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	out := stdjson.NewEncoder(os.Stdout)
	for _, path := range os.Args[1:] {
		found := result{Path: path}
		manifests, err := read(path)
		if err == nil {
			found.Objects, err = parse(codec, manifests)
		}
		if err != nil {
			found = result{Path: path, Error: err.Error()}
		}
		if err := out.Encode(found); err != nil {
			panic(err)
		}
	}
}

// read returns the text of a file, or the output of kustomize for a folder.
func read(path string) ([]byte, error) {
	status, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !status.IsDir() {
		return os.ReadFile(path)
	}
	var out bytes.Buffer
	command := build.NewCmdBuild(filesys.MakeFsOnDisk(), build.MakeHelp("kustomize", "build"), &out)
	command.SetArgs([]string{path})
	command.SilenceUsage, command.SilenceErrors = true, true
	err = command.Execute()
	return out.Bytes(), err
}

// parse reads all documents of a text.
func parse(decoder runtime.Decoder, manifests []byte) ([]runtime.Object, error) {
	var objects []runtime.Object
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", kind, err)
		}
		if err := checkMeta(object); err != nil {
			return nil, fmt.Errorf("%v: %w", kind, err)
		}
		objects = append(objects, object)
	}
}

// checkMeta rejects the names and labels that the API server would reject.
func checkMeta(object runtime.Object) error {
	about, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	problems := validation.IsDNS1123Subdomain(about.GetName())
	for key, value := range about.GetLabels() {
		problems = append(problems, validation.IsQualifiedName(key)...)
		problems = append(problems, validation.IsValidLabelValue(value)...)
	}
	for key := range about.GetAnnotations() {
		problems = append(problems, validation.IsQualifiedName(key)...)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%q: %s", about.GetName(), problems)
	}
	return nil
}
