// Package launch is the small process between a worker and one sidecar, and the
// words the two exchange.
//
// # Descriptors of a launcher
//
//	0  pipe from the worker: one [Spec] as JSON, then nothing; its end is the order to leave
//	1  pipe to the worker: one [Report] as JSON a line
//	2  where the sidecar's stderr goes as well
//	3  the sidecar's stream, passed on as its 3, or /dev/null
//	4  the sidecar's stdout
//	5  the sidecar's stderr
//	6  the locked run directory; the lock goes with the last holder
//
// # What it does
//
// It becomes a subreaper, limits itself, and starts the sidecar from one thread
// that it has put into the sidecar's cgroups, network namespace and Landlock
// domain. Only that thread is restricted: the launcher must be able to remove the
// run directory. The thread lives as long as the launcher, so that the sidecar's
// parent-death signal, which follows the thread, means what it says.
//
// When its pipe ends or the sidecar does, it kills the sidecar's process group and
// every descendant, removes the run directory and exits.
package launch
