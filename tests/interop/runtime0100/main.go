// The Go runtime side, v0.10.0: most events go by StateChange, pod updates and validation exist.
package main

import (
	"github.com/containerd/nri/pkg/adaptation"

	"nri-sync.test/driver"
)

func main() {
	driver.Main(driver.Version{
		Number: "v0.10.0",
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
			"StateChange":          driver.Event((*adaptation.Adaptation).StateChange),
		},
		Block: func(a *adaptation.Adaptation) func() { return a.BlockPluginSync().Unblock },
	})
}
