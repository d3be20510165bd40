// Package sdnotify tells a service manager of the systemd kind how this process
// fares: that it is ready, what it is doing, that it still lives, that it stops.
//
// The protocol is one datagram of NAME=value lines to the Unix socket that
// NOTIFY_SOCKET names; WATCHDOG_USEC says how often WATCHDOG=1 is expected. Without
// NOTIFY_SOCKET every call does nothing, so that a program need not ask who started it.
package sdnotify
