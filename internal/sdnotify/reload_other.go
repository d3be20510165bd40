//go:build !linux

package sdnotify

// Reloading is the state of a service that takes over a changed configuration; [Ready]
// ends it.
func Reloading() string { return "RELOADING=1" }
