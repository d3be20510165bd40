package pluginhost_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

// A manifest says what a plugin is; the host loads it, whatever its mode, and calls it.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// Without a launcher a sidecar runs uncontained. A program that hosts plugins of
	// others gives one: its own binary, with an argument on which it calls LaunchMain.
	host, err := pluginhost.New(pluginhost.Config{DataDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	m, err := pluginhost.ReadManifest("../../examples/gsm8k-reward", nil)
	if err != nil {
		log.Fatal(err)
	}
	info, err := host.Load(ctx, m)
	if err != nil {
		log.Fatal(err)
	}
	result, err := host.Call(ctx, info.Name, "score", []byte(`{"reference": "A: 4", "completion": "so A: 4"}`))
	fmt.Println(info.ID, info.Mode, string(result), err)
	fmt.Println(host.Shutdown(ctx))
	// Output:
	// gsm8k-reward-0.1.0 sidecar {"reward": 1.0} <nil>
	// <nil>
}
