package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire joins two network namespaces by two TUN devices, and carries every IP packet
// between them by hand: late, some not at all, and now and then a TCP connection is
// reset in the middle of a segment, as routers that forget do. What happens above IP,
// the retransmissions of TCP and of QUIC, is the real thing.
type wire struct {
	sides [2]*netns // addresses 10.231.0.1 and 10.231.0.2
	delay time.Duration

	// Set while packets pass. loss is in parts of a million; every cutEvery-th TCP
	// segment with data from side 1 to side 0 is lost with its connection, 0: none.
	loss, cutEvery atomic.Int64

	segments, passed, lost, cuts atomic.Int64
	carriers                     sync.WaitGroup
}

// newWire makes a wire that loses nothing yet. It ends with the test, and nothing of
// it outlives the process.
func newWire(t *testing.T, delay time.Duration) *wire {
	t.Helper()
	w := &wire{delay: delay}
	for i := range w.sides {
		n, err := newNetns([4]byte{10, 231, 0, byte(i + 1)})
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			t.Skipf("NOT RUN: a lossy network takes root, network namespaces and /dev/net/tun: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.close)
		w.sides[i] = n
	}
	t.Cleanup(func() {
		for _, n := range w.sides {
			_ = n.tun.Close() // ends the carriers; a second close is of no interest
		}
		w.carriers.Wait()
	})
	w.carry(0, 1)
	w.carry(1, 0)
	return w
}

// late is a packet on its way.
type late struct {
	at   time.Time
	data []byte
}

// carry takes packets from one side to the other.
func (w *wire) carry(from, to int) {
	queue := make(chan late, 1<<14)
	w.carriers.Go(func() {
		for p := range queue {
			<-time.After(time.Until(p.at))
			// What the other side cannot take is lost, as on any network.
			_, _ = w.sides[to].tun.Write(p.data)
		}
	})
	w.carriers.Go(func() {
		defer close(queue)
		buf := make([]byte, 1<<16)
		for {
			n, err := w.sides[from].tun.Read(buf)
			if err != nil {
				return
			}
			if from == 1 && w.cut(buf[:n]) {
				continue
			}
			if rand.Int64N(1e6) < w.loss.Load() {
				w.lost.Add(1)
				continue
			}
			w.passed.Add(1)
			select {
			case queue <- late{time.Now().Add(w.delay), append([]byte(nil), buf[:n]...)}:
			default:
				w.lost.Add(1) // a router drops what it cannot hold
			}
		}
	})
}

// cut resets the connection of a TCP segment with data, when its turn has come, and
// reports whether the segment is lost with it.
func (w *wire) cut(p []byte) bool {
	every := w.cutEvery.Load()
	if every == 0 || len(p) < 40 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_TCP {
		return false
	}
	ip := int(p[0]&15) * 4
	tcp := p[ip:]
	const flags, syn, fin, rst = 13, 2, 1, 4
	data := len(tcp) - int(tcp[12]>>4)*4
	if data <= 0 || tcp[flags]&(syn|fin|rst) != 0 || w.segments.Add(1)%every != 0 {
		return false
	}
	w.cuts.Add(1)
	seq, ack := binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	src, dst := p[12:16], p[16:20]
	sport, dport := tcp[0:2], tcp[2:4]
	for _, r := range []struct {
		to  int
		pkt []byte
	}{{0, reset(src, dst, sport, dport, seq)}, {1, reset(dst, src, dport, sport, ack)}} {
		// A reset that does not arrive leaves a connection that is dead on one side,
		// which is worth trying too.
		_, _ = w.sides[r.to].tun.Write(r.pkt)
	}
	return true
}

// reset makes a TCP reset.
func reset(src, dst, sport, dport []byte, seq uint32) []byte {
	p := make([]byte, 40)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], 40)
	copy(p[12:], src)
	copy(p[16:], dst)
	binary.BigEndian.PutUint16(p[10:], checksum(0, p[:20]))
	t := p[20:]
	copy(t, sport)
	copy(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12], t[13] = 5<<4, 4
	pseudo := checksumAdd(0, p[12:20]) + unix.IPPROTO_TCP + 20
	binary.BigEndian.PutUint16(t[16:], checksum(pseudo, t))
	return p
}

// checksumAdd adds 16-bit words.
func checksumAdd(sum uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return sum
}

// checksum is the internet checksum of what was added up and b.
func checksum(sum uint32, b []byte) uint16 {
	sum = checksumAdd(sum, b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// netns is a network namespace with one TUN device, kept by a thread that is in it.
type netns struct {
	tun  *os.File
	todo chan func()
}

// newNetns makes a namespace whose device has an address of a /24.
func newNetns(addr [4]byte) (*netns, error) {
	n := &netns{todo: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.tun, err = openTUN("wire0", addr)
		}
		made <- err
		for f := range n.todo {
			f()
		}
	}()
	if err := <-made; err != nil {
		close(n.todo)
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return n, nil
}

// do runs f on the thread that is in the namespace. Processes that it starts are in it
// too.
func (n *netns) do(f func() error) error {
	done := make(chan error)
	n.todo <- func() { done <- f() }
	return <-done
}

func (n *netns) close() { close(n.todo) }

// openTUN makes a TUN device with an address and brings it up. The calling thread's
// namespace gets it.
func openTUN(name string, addr [4]byte) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := func(err error) (*os.File, error) {
		if err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	ctl, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return file(err)
	}
	defer unix.Close(ctl)
	for _, step := range []struct {
		fd   int
		req  uint
		dev  string
		fill func(*unix.Ifreq) error
	}{
		{fd, unix.TUNSETIFF, name, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI); return nil }},
		{ctl, unix.SIOCSIFADDR, name, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr[:]) }},
		{ctl, unix.SIOCSIFNETMASK, name, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{ctl, unix.SIOCSIFFLAGS, name, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
		{ctl, unix.SIOCSIFFLAGS, "lo", func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(step.dev)
		if err == nil {
			err = step.fill(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(step.fd, step.req, r)
		}
		if err != nil {
			return file(err)
		}
	}
	return file(nil)
}
