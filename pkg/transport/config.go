package transport

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Protocol is the wire of the workers' services.
type Protocol string

// The wires.
const (
	// ProtocolH2 is HTTP/2 over TCP.
	ProtocolH2 Protocol = "h2"
	// ProtocolQUIC is gRPC over QUIC streams, with HTTP/2 over TCP on the same port
	// number for operators and enrolment. Experimental.
	ProtocolQUIC Protocol = "quic"
)

// DefaultAddr is where a coordinator listens unless told otherwise.
const DefaultAddr = "127.0.0.1:50051"

// Limits bound what a peer can make the server spend. Zero fields take the value
// of [DefaultLimits].
type Limits struct {
	MessageBytes      int           // largest message taken or sent
	HeaderBytes       uint32        // largest header list of one call
	Streams           uint32        // calls at once on one connection
	Handshake         time.Duration // from accept to a finished handshake
	Stranger          time.Duration // life of a connection that shows no certificate; one enrolment fits
	Connections       int           // open at once, all peers together
	WorkerConnections int           // open at once with one worker's certificate
	AcceptPerSecond   float64       // new connections a second from one address
	AcceptBurst       int           // new connections at once from one address
	EnrolPerSecond    float64       // enrolments a second from one address
	WorkerPerSecond   float64       // calls and beats a second of one worker; 0 takes the default, below 0 means no limit
	WorkerBurst       int           // calls and beats at once of one worker
	KeepaliveMin      time.Duration // least time between two pings of a peer
	Drain             time.Duration // how long an ordered shutdown waits for calls in flight
}

// DefaultLimits returns limits for 10,000 workers on one small machine.
func DefaultLimits() Limits {
	return Limits{
		MessageBytes:      1 << 20,
		HeaderBytes:       16 << 10,
		Streams:           64,
		Handshake:         5 * time.Second,
		Stranger:          10 * time.Second,
		Connections:       32_768,
		WorkerConnections: 16,
		AcceptPerSecond:   2_000,
		AcceptBurst:       16_384,
		EnrolPerSecond:    10,
		WorkerPerSecond:   5_000,
		WorkerBurst:       20_000,
		KeepaliveMin:      10 * time.Second,
		Drain:             2 * time.Second,
	}
}

// withDefaults fills the zero fields.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	setDefault(&l.MessageBytes, d.MessageBytes)
	setDefault(&l.HeaderBytes, d.HeaderBytes)
	setDefault(&l.Streams, d.Streams)
	setDefault(&l.Handshake, d.Handshake)
	setDefault(&l.Stranger, d.Stranger)
	setDefault(&l.Connections, d.Connections)
	setDefault(&l.WorkerConnections, d.WorkerConnections)
	setDefault(&l.AcceptPerSecond, d.AcceptPerSecond)
	setDefault(&l.AcceptBurst, d.AcceptBurst)
	setDefault(&l.EnrolPerSecond, d.EnrolPerSecond)
	setDefault(&l.WorkerPerSecond, d.WorkerPerSecond)
	setDefault(&l.WorkerBurst, d.WorkerBurst)
	setDefault(&l.KeepaliveMin, d.KeepaliveMin)
	setDefault(&l.Drain, d.Drain)
	return l
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Config says how a [Server] serves.
type Config struct {
	// Addr is host:port to listen on. Port 0 picks one that is free over TCP, and
	// over UDP too where the protocol is QUIC. Default: [DefaultAddr].
	Addr string
	// Protocol is the wire of the workers' services. Default: [ProtocolH2].
	Protocol Protocol
	// ServerNames are DNS names and IP addresses that the server's certificate
	// carries beside localhost, 127.0.0.1 and ::1.
	ServerNames []string
	// Authority issues and checks certificates. Required.
	Authority *Authority
	// Epoch is the coordinator's, stamped on every answer. Required.
	Epoch uint64
	// Limits bound what peers can make the server spend.
	Limits Limits
	// Denied are serials of certificates, lower-case hex, that are refused from the
	// start; see [Server.Deny].
	Denied []string
	// Logger takes what the server has to say. Default: discarded.
	Logger *slog.Logger
	// WorkerLife is how long a worker's certificate lasts. Default: [WorkerLife].
	WorkerLife time.Duration

	planted planted // by tests
}

// withDefaults fills the zero fields.
func (c Config) withDefaults() Config {
	setDefault(&c.Addr, DefaultAddr)
	setDefault(&c.Protocol, ProtocolH2)
	setDefault(&c.WorkerLife, WorkerLife)
	c.Limits = c.Limits.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns every broken rule at once. Zero fields that have a default are
// no violation.
func (c Config) Validate() core.Violations {
	var vs core.Violations
	add := func(key, format string, args ...any) {
		vs = append(vs, core.Violation{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if c.Addr != "" {
		if err := checkAddr(c.Addr); err != nil {
			add("transport.listen_addr", "%v", err)
		}
	}
	if c.Protocol != "" && c.Protocol != ProtocolH2 && c.Protocol != ProtocolQUIC {
		add("transport.protocol", "%q is no protocol, use \"h2\" or \"quic\"", c.Protocol)
	}
	for _, name := range c.ServerNames {
		if !validServerName(name) {
			add("transport.server_names", "%q is neither an IP address nor a DNS name, use such as \"10.0.0.5\" or \"gpu-7.example.org\"", name)
		}
	}
	if c.Authority == nil {
		add("transport.tls_dir", "no certificate authority was opened")
	}
	if c.Epoch == 0 {
		add("epoch", "the coordinator has no epoch, take one from storage first")
	}
	return vs
}

// hostOf returns the host of host:port, or all of what is not that.
func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// checkAddr accepts host:port with a numeric port.
func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port, use such as %q", addr, DefaultAddr)
	}
	for _, r := range port {
		if r < '0' || r > '9' {
			return fmt.Errorf("the port of %q is not a number from 0 to 65535", addr)
		}
	}
	if len(port) == 0 || len(port) > 5 || (len(port) == 5 && port > "65535") {
		return fmt.Errorf("the port of %q is not a number from 0 to 65535", addr)
	}
	return nil
}

// validServerName reports whether name can stand in a certificate as a DNS name or
// an IP address.
func validServerName(name string) bool {
	if net.ParseIP(name) != nil {
		return true
	}
	if name == "" || len(name) > 253 {
		return false
	}
	label := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case c == '-' && label > 0:
		case c == '*' && i == 0 && len(name) > 2 && name[1] == '.':
		default:
			return false
		}
		label++
		if label > 63 {
			return false
		}
	}
	return label > 0
}
