package pluginhost

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/launch"
)

// launchSO is the launcher's argument that makes it serve a shared library.
const launchSO = "so"

// LaunchMain is the command that [Config.Launcher] starts: without arguments the
// launcher between a worker and one sidecar, with "so" and its arguments the
// process that serves one shared library. It returns the exit status.
//
// Both are for a host's use and take their orders from inherited descriptors.
func LaunchMain(args []string) int {
	if len(args) == 0 {
		return launch.Main()
	}
	if args[0] != launchSO {
		fmt.Fprintf(os.Stderr, "launch: unknown argument %q; this command is for a worker's use\n", args[0])
		return 2
	}
	if err := serveSO(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "launch so:", err)
		return 1
	}
	return 0
}

func serveSO(args []string) error {
	s, err := parseSOServer(args)
	if err != nil {
		return err
	}
	f := os.NewFile(launch.FDStream, "stream")
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("descriptor %d is no stream to a host: %w", launch.FDStream, err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return s.serve(context.Background(), conn)
}
