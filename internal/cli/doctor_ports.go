package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// ports tries the address that a coordinator would listen at.
func (d *doctor) ports(ctx context.Context) {
	const name = "listen address"
	addr := d.cfg.ListenAddr
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err == nil {
		err = l.Close()
	}
	var lookup *net.DNSError
	switch {
	case err == nil:
		d.ok(name, "%s is free", addr)
	case errors.Is(err, unix.EADDRINUSE):
		d.taken(name, addr)
		return
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.As(err, &lookup):
		d.add(name, healthFail, "set transport.listen_addr to an address of this machine (ip addr), or to 0.0.0.0:PORT for all", "%s is no address of this machine: %v", addr, err)
		return
	case errors.Is(err, unix.EACCES):
		d.add(name, healthFail, "choose a port above 1023 in transport.listen_addr, or give the coordinator CAP_NET_BIND_SERVICE", "user %d may not listen at %s", os.Geteuid(), addr)
		return
	default:
		d.add(name, healthFail, "correct transport.listen_addr", "%v", err)
		return
	}
	if d.cfg.Protocol == string(transport.ProtocolQUIC) {
		d.udp(addr)
	}
}

// taken tells who holds the address: the coordinator of this data directory, or
// somebody in its way.
func (d *doctor) taken(name, addr string) {
	pid := listener(addr)
	who := "another process, which this user cannot see; as root: ss -ltnp"
	if pid > 0 {
		who = fmt.Sprintf("process %d%s", pid, commands(strconv.Itoa(pid)))
	}
	// A store that cannot be asked is told by its own check.
	if holder, err := storage.HeldBy(d.cfg.StoragePath); err == nil && holder == fmt.Sprintf("process %d", pid) {
		d.ok(name, "%s is held by %s, the coordinator of this data directory", addr, who)
		return
	}
	d.add(name, healthFail, "stop it, or set transport.listen_addr (and coordinator_addr of workers) to another port", "%s is in use by %s", addr, who)
}

// listener returns the process that listens on a TCP port, 0 when /proc does not tell.
func listener(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return 0
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue // a kernel without that family
		}
		for line := range strings.Lines(string(text)) {
			// "0: 0100007F:C383 00000000:0000 0A 0:0 0:0 0 uid timeout inode ..."
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) {
				continue
			}
			if pid := owner("socket:[" + f[9] + "]"); pid > 0 {
				return pid
			}
		}
	}
	return 0
}

// owner returns a process that has a descriptor of that name.
func owner(name string) int {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil { // only a malformed pattern fails
		return 0
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == name {
			pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
			if err == nil {
				return pid
			}
		}
	}
	return 0
}

// Figures of UDP.
const (
	udpPatience = 5 * time.Second // over loopback it takes no time, on a machine that hangs it may
	quicBuffer  = 7 << 20         // bytes that a QUIC connection asks the kernel to buffer
)

// udp sends a datagram to the listen address from this machine and waits for it.
func (d *doctor) udp(addr string) {
	const name = "udp for quic"
	if err := echoUDP(addr); err != nil {
		d.add(name, healthFail, `free the port, let UDP pass the firewall on it, or use transport.protocol = "h2"`, "a datagram to %s did not arrive: %v", addr, err)
		return
	}
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if n, perr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && perr == nil && n < quicBuffer {
		d.add(name, healthNote, fmt.Sprintf("sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d for full speed", quicBuffer, quicBuffer),
			"a datagram to %s arrives; the kernel buffers at most %s for it. Whether other hosts get through is for their doctor and firewall to say", addr, size(int64(n)))
		return
	}
	d.ok(name, "a datagram to %s arrives; other hosts' firewalls are not seen from here", addr)
}

// echoUDP sends a datagram to a socket at addr, from another one of this machine.
func echoUDP(addr string) (err error) {
	l, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	c, err := net.Dial("udp", l.LocalAddr().String()) // an unspecified address means this machine
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	word := []byte("rollout doctor " + hex.EncodeToString([]byte(addr)))
	if _, err := c.Write(word); err != nil {
		return err
	}
	if err := l.SetReadDeadline(time.Now().Add(udpPatience)); err != nil {
		return err
	}
	got := make([]byte, len(word)+1)
	n, _, err := l.ReadFrom(got)
	if err == nil && string(got[:n]) != string(word) {
		err = errors.New("another datagram arrived")
	}
	return err
}
