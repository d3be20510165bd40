// Package pluginsdk serves a plugin written in Go as a sidecar process.
//
//	type reward struct{}
//
//	func (reward) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
//		return payload, nil
//	}
//
//	func main() { os.Exit(pluginsdk.Main(reward{})) }
//
// The manifest names the binary with protocol grpc:
//
//	mode = "sidecar"
//	[entry.sidecar]
//	command = ["./reward"]
//	protocol = "grpc"
//
// Beneath lies hashicorp/go-plugin's handshake with the service
// rollout.plugin.v1.Plugin, so that a plugin in any language can do the same.
// What the plugin prints becomes log lines of the worker.
package pluginsdk
