//go:build !linux

package launch

import (
	"fmt"
	"os"
)

// Main says that this system has no launcher: what it does rests on Linux.
func Main() int {
	fmt.Fprintln(os.Stderr, "launch: sidecars are contained on Linux only; without a launcher they run uncontained")
	return 1
}
