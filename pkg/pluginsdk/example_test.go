package pluginsdk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"strconv"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginsdk"
)

// length rewards short answers. Its configuration is the manifest's table [config].
type length struct {
	Best int `json:"best"`
}

var (
	_ pluginsdk.Plugin      = (*length)(nil)
	_ pluginsdk.Initer      = (*length)(nil)
	_ pluginsdk.Preflighter = (*length)(nil)
)

// Init implements [pluginsdk.Initer].
func (l *length) Init(_ context.Context, config json.RawMessage) error {
	return json.Unmarshal(config, l)
}

// Preflight implements [pluginsdk.Preflighter]: a plugin that cannot do its work is not
// loaded.
func (l *length) Preflight(context.Context) error {
	if l.Best <= 0 {
		return fmt.Errorf("config.best is %d, give a number of words", l.Best)
	}
	return nil
}

// Call implements [pluginsdk.Plugin].
func (l *length) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case "score":
		off := len(strings.Fields(string(payload))) - l.Best
		return strconv.AppendFloat(nil, 1/float64(1+max(off, -off)), 'f', 2, 64), nil
	case "remote":
		return nil, pluginsdk.Retry(fmt.Errorf("the judge is busy"), core.RetryHint{Kind: core.RetryBackoff})
	}
	return nil, fmt.Errorf("%w: %s", pluginsdk.ErrUnknownMethod, method)
}

// A plugin is a type with Call; its main function is
//
//	func main() { os.Exit(pluginsdk.Main(&length{})) }
//
// The host calls Init and Preflight before anything else, as here.
func Example() {
	ctx, p := context.Background(), &length{}
	if err := p.Init(ctx, json.RawMessage(`{"best": 3}`)); err != nil {
		log.Fatal(err)
	}
	if err := p.Preflight(ctx); err != nil {
		log.Fatal(err)
	}
	for _, payload := range []string{"it is four", "four"} {
		reward, err := p.Call(ctx, "score", []byte(payload))
		fmt.Printf("%q %s %v\n", payload, reward, err)
	}
	_, err := p.Call(ctx, "remote", nil)
	fmt.Println(err, core.RetryOf(err).Kind == core.RetryBackoff)
	// Output:
	// "it is four" 1.00 <nil>
	// "four" 0.33 <nil>
	// the judge is busy true
}
