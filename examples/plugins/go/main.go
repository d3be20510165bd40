// Command go is a sidecar plugin in Go: it counts the words of its payload.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/rollout-substrate/rollout/pkg/pluginsdk"
)

// words is the plugin. Greeting comes from the manifest's [config].
type words struct{ Greeting string }

// Init reads the configuration.
func (w *words) Init(_ context.Context, config json.RawMessage) error {
	return json.Unmarshal(config, w)
}

// Preflight proves that the plugin answers as it should.
func (w *words) Preflight(ctx context.Context) error {
	out, err := w.Call(ctx, "count", []byte("one two"))
	if err == nil && string(out) != "2" {
		err = fmt.Errorf("count of two words is %s", out)
	}
	return err
}

// Call runs one method.
func (w *words) Call(_ context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case "count":
		return strconv.AppendInt(nil, int64(len(bytes.Fields(payload))), 10), nil
	case "greet":
		return fmt.Appendf(nil, "%s, %s", w.Greeting, payload), nil
	}
	return nil, fmt.Errorf("%w: %s", pluginsdk.ErrUnknownMethod, method)
}

func main() { os.Exit(pluginsdk.Main(&words{Greeting: "hello"})) }
