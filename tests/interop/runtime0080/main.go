// The Go runtime side, v0.8.0: split synchronization, but neither pod updates nor validation.
package main

import (
	"github.com/containerd/nri/pkg/adaptation"

	"nri-sync.test/driver"
)

func main() {
	driver.Main(driver.Version{
		Number: "v0.8.0",
		Relays: map[string]driver.Relay{
			"RunPodSandbox":       driver.Event((*adaptation.Adaptation).RunPodSandbox),
			"StopPodSandbox":      driver.Event((*adaptation.Adaptation).StopPodSandbox),
			"RemovePodSandbox":    driver.Event((*adaptation.Adaptation).RemovePodSandbox),
			"CreateContainer":     driver.Unary((*adaptation.Adaptation).CreateContainer),
			"PostCreateContainer": driver.Event((*adaptation.Adaptation).PostCreateContainer),
			"StartContainer":      driver.Event((*adaptation.Adaptation).StartContainer),
			"PostStartContainer":  driver.Event((*adaptation.Adaptation).PostStartContainer),
			"UpdateContainer":     driver.Unary((*adaptation.Adaptation).UpdateContainer),
			"PostUpdateContainer": driver.Event((*adaptation.Adaptation).PostUpdateContainer),
			"StopContainer":       driver.Unary((*adaptation.Adaptation).StopContainer),
			"RemoveContainer":     driver.Event((*adaptation.Adaptation).RemoveContainer),
			"StateChange":         driver.Event((*adaptation.Adaptation).StateChange),
		},
		Block: func(a *adaptation.Adaptation) func() { return a.BlockPluginSync().Unblock },
	})
}
