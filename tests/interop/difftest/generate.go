package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/nri/pkg/api"
	nrigen "github.com/containerd/nri/pkg/runtime-tools/generate"
	rspec "github.com/opencontainers/runtime-spec/specs-go"
	ocigen "github.com/opencontainers/runtime-tools/generate"

	"nri-sync.test/control"
)

// generateCase is an adjustment and the OCI specification to apply it to.
type generateCase struct {
	Spec   json.RawMessage `json:"spec"`
	Adjust []byte          `json:"adjust"`
	// Classes that can be resolved; null is no resolver.
	BlockIO map[string]rspec.LinuxBlockIO  `json:"blockio"`
	Rdt     map[string]rspec.LinuxIntelRdt `json:"rdt"`
	CDI     bool                           `json:"cdi"`
	// Refuse is the error of the resource checker; "" makes it accept.
	Refuse string `json:"refuse"`
	// Filtered are annotations and sysctls that a filter removes.
	Filtered []string `json:"filtered"`
}

type generateResult struct {
	Error string      `json:"error"`
	Spec  *rspec.Spec `json:"spec"`
	CDI   []string    `json:"cdi"`
	// Checked are the resources that the checker has received.
	Checked *rspec.LinuxResources `json:"checked"`
	Panic   string                `json:"panic"`
}

func spec(raw json.RawMessage) *rspec.Spec {
	s := &rspec.Spec{}
	if err := json.Unmarshal(raw, s); err != nil {
		control.Fatal("spec %.200s: %v", raw, err)
	}
	return s
}

// respec is the specification in Go's encoding.
func respec(raw json.RawMessage) *rspec.Spec {
	return spec(raw)
}

func generate(c generateCase) (r generateResult) {
	defer func() {
		if p := recover(); p != nil {
			r.Panic = fmt.Sprint(p)
		}
	}()
	s := spec(c.Spec)
	options := []nrigen.GeneratorOption{
		nrigen.WithAnnotationFilter(func(entries map[string]string) (map[string]string, error) {
			for _, key := range c.Filtered {
				delete(entries, key)
			}
			return entries, nil
		}),
		nrigen.WithResourceChecker(func(resources *rspec.LinuxResources) error {
			if resources != nil {
				// A copy of the present state: mounts and classes are applied later.
				data, err := json.Marshal(resources)
				if err != nil {
					return err
				}
				r.Checked = &rspec.LinuxResources{}
				if err := json.Unmarshal(data, r.Checked); err != nil {
					return err
				}
			}
			if c.Refuse != "" {
				return errors.New(c.Refuse)
			}
			return nil
		}),
	}
	if c.BlockIO != nil {
		options = append(options, nrigen.WithBlockIOResolver(resolver(c.BlockIO)))
	}
	if c.Rdt != nil {
		options = append(options, nrigen.WithRdtResolver(resolver(c.Rdt)))
	}
	if c.CDI {
		options = append(options, nrigen.WithCDIDeviceInjector(func(_ *rspec.Spec, names []string) error {
			r.CDI = names
			return nil
		}))
	}
	generator := ocigen.NewFromSpec(s)
	err := nrigen.SpecGenerator(&generator, options...).Adjust(parse(c.Adjust, &api.ContainerAdjustment{}))
	if err != nil {
		r.Error = err.Error()
		return
	}
	r.Spec = s
	return
}

func resolver[C any](classes map[string]C) func(string) (*C, error) {
	return func(name string) (*C, error) {
		if class, ok := classes[name]; ok {
			return &class, nil
		}
		return nil, fmt.Errorf("no class %q", name)
	}
}
