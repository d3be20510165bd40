// Package pluginhost runs plugins of every mode behind [core.PluginHost]: code
// in a shared library, in an embedded Python interpreter, and in sidecar
// processes that speak one of three wires.
//
// # Parts
//
//	manifest*.go    TOML file -> core.Manifest: every violation at once, digest, discovery
//	host*.go        table of plugins, generations, supervision, events
//	driver.go       the seam: an instance and how it is started
//	so*.go          mode so, through internal/cabi
//	python*.go      mode python, through internal/pyembed
//	sidecar*.go     mode sidecar: framed, grpc, framed-json-uds
//	launch*.go      the small process between worker and sidecar
//
// # Life of a plugin
//
// A plugin has a current generation; a generation has one instance, or as many
// as the manifest's concurrency in mode python. A call takes a slot of the
// plugin, then a reference to the current generation, and calls its instance on
// the caller's own goroutine with no lock held. A reload starts a new
// generation, makes it the current one, waits for the references of the old one
// to go, and stops that. The death of an instance is seen by a goroutine of its
// own, which replaces it with backoff; calls that arrive meanwhile wait for the
// replacement, or fail typed once the plugin dies again and again.
package pluginhost
