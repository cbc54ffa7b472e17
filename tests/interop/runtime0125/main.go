// The Go runtime side, v0.12.5: every event has its own method.
package main

import (
	"github.com/containerd/nri/pkg/adaptation"

	"nri-sync.test/driver"
)

func main() {
	driver.Main(driver.Version{
		Number: "v0.12.5",
		Relays: map[string]driver.Relay{
			"RunPodSandbox":        driver.Event((*adaptation.Adaptation).RunPodSandbox),
			"UpdatePodSandbox":     driver.Unary((*adaptation.Adaptation).UpdatePodSandbox),
			"PostUpdatePodSandbox": driver.Event((*adaptation.Adaptation).PostUpdatePodSandbox),
			"StopPodSandbox":       driver.Event((*adaptation.Adaptation).StopPodSandbox),
			"RemovePodSandbox":     driver.Event((*adaptation.Adaptation).RemovePodSandbox),
			"CreateContainer":      driver.Unary((*adaptation.Adaptation).CreateContainer),
			"PostCreateContainer":  driver.Event((*adaptation.Adaptation).PostCreateContainer),
			"StartContainer":       driver.Event((*adaptation.Adaptation).StartContainer),
			"PostStartContainer":   driver.Event((*adaptation.Adaptation).PostStartContainer),
			"UpdateContainer":      driver.Unary((*adaptation.Adaptation).UpdateContainer),
			"PostUpdateContainer":  driver.Event((*adaptation.Adaptation).PostUpdateContainer),
			"StopContainer":        driver.Unary((*adaptation.Adaptation).StopContainer),
			"RemoveContainer":      driver.Event((*adaptation.Adaptation).RemoveContainer),
		},
		Block: func(a *adaptation.Adaptation) func() { return a.BlockPluginSync().Unblock },
	})
}
