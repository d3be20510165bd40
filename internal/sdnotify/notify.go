package sdnotify

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Variables by which a service manager introduces itself.
const (
	envSocket       = "NOTIFY_SOCKET"
	envWatchdog     = "WATCHDOG_USEC"
	envWatchdogUser = "WATCHDOG_PID"
)

// States that a manager understands.
const (
	Ready    = "READY=1"    // the service does what it is for
	Stopping = "STOPPING=1" // it has begun to end
	Watchdog = "WATCHDOG=1" // it still lives
)

// sendTimeout bounds one message: a manager that does not read must not hold the
// service up.
const sendTimeout = time.Second

// Notifier speaks to one service manager. The zero value speaks to nobody.
type Notifier struct {
	addr     *net.UnixAddr
	watchdog time.Duration
}

// New reads the variables of a process with the id pid. A watchdog that is meant for
// another process is left out. The error names the variable that makes no sense; the
// notifier returned with it does what the others ask for.
func New(lookupEnv func(string) (string, bool), pid int) (Notifier, error) {
	var n Notifier
	socket, _ := lookupEnv(envSocket)
	if socket == "" {
		return n, nil
	}
	if socket[0] != '/' && socket[0] != '@' {
		return n, fmt.Errorf("%s is %q, which is neither an absolute path nor an abstract name that begins with @", envSocket, socket)
	}
	n.addr = &net.UnixAddr{Name: socket, Net: "unixgram"} // a leading @ is Go's spelling too
	usec, _ := lookupEnv(envWatchdog)
	if user, _ := lookupEnv(envWatchdogUser); usec == "" || user != "" && user != strconv.Itoa(pid) {
		return n, nil
	}
	us, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || us <= 0 || us > int64(1<<63-1)/1000 {
		return n, fmt.Errorf("%s is %q, give a positive number of microseconds", envWatchdog, usec)
	}
	n.watchdog = time.Duration(us) * time.Microsecond
	return n, nil
}

// Enabled reports whether anybody listens.
func (n Notifier) Enabled() bool { return n.addr != nil }

// WatchdogInterval is how long the manager waits for [Watchdog] before it acts; 0: for
// ever. Senders take half of it.
func (n Notifier) WatchdogInterval() time.Duration { return n.watchdog }

// Status is the state that shows text to people.
func Status(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", "; ") }

// Send sends states in one message. It waits a second at most.
func (n Notifier) Send(states ...string) error {
	if n.addr == nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	err = conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err == nil {
		_, err = conn.Write([]byte(strings.Join(states, "\n")))
	}
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
