package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// loadSpec is what a load process is told, as JSON in its environment.
type loadSpec struct {
	Addr, Dir string
	Protocol  Protocol
	Workers   int
	Group     uint32 // of the ids, see fleetID
	H         time.Duration
	Burst     int  // handshakes at once; 0: all
	Burn      bool // no workers, only a busy processor
	Raw       bool // plain grpc-go; without an address: a server, which prints its own
}

// loadReport is what it says of its last seconds.
type loadReport struct {
	Beats, Failed int64
	P50, P99, Max time.Duration
	FirstError    string
}

const loadEnv = "ROLLOUT_TRANSPORT_LOAD"

// fleetID is the id of the n-th worker of a group.
func fleetID(group uint32, n int) core.WorkerID {
	var id core.WorkerID
	binary.BigEndian.PutUint32(id[4:], group)
	binary.BigEndian.PutUint32(id[12:], uint32(n+1))
	return id
}

// loadMain is a process of many workers. It prints "ready" once all of them have
// registered and had a beat answered, starts to measure at each line of its input and
// prints a report, and ends with its input.
func loadMain(text string) error {
	var spec loadSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	if spec.Burn {
		go func() {
			for {
			}
		}()
	}
	if spec.Raw && spec.Addr == "" {
		return rawServer(spec.Dir)
	}
	l := &loadProcess{spec: spec}
	if err := l.joinAll(); err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		b, err := json.Marshal(l.take())
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return in.Err()
}

type loadProcess struct {
	spec  loadSpec
	ready sync.WaitGroup // one for each worker without an answered beat

	mu     sync.Mutex // guards the fields below
	times  []time.Duration
	failed int64
	first  string
}

// joinAll brings all workers up and waits until each has had a beat answered.
func (l *loadProcess) joinAll() error {
	if l.spec.Workers == 0 {
		return nil
	}
	a, err := LoadAuthority(l.spec.Dir)
	if err != nil {
		return err
	}
	key, err := newKey() // one for all: what is measured is not the making of keys
	if err != nil {
		return err
	}
	if l.spec.Burst == 0 {
		l.spec.Burst = l.spec.Workers
	}
	gate := make(chan struct{}, l.spec.Burst)
	for n := range l.spec.Workers {
		i := &Identity{id: fleetID(l.spec.Group, n), key: key, now: time.Now}
		c, err := a.IssueWorker(i.id, key.Public(), time.Hour)
		if err != nil {
			return err
		}
		if i.cert, err = i.accept(c); err != nil {
			return err
		}
		l.ready.Add(1)
		gate <- struct{}{}
		go func() {
			join := l.join
			if l.spec.Raw {
				join = l.joinRaw
			}
			send, err := join(i, a)
			<-gate
			if err != nil {
				l.fail(err)
				l.ready.Done()
				return
			}
			l.beat(send)
		}()
	}
	l.ready.Wait()
	return nil
}

// beatFunc sends a beat and waits for its answer.
type beatFunc func(seq uint64) error

// join registers a worker and opens its streams. The connection lives as long as the
// process.
func (l *loadProcess) join(i *Identity, _ *Authority) (beatFunc, error) {
	w, err := DialWorker(ClientConfig{Addr: l.spec.Addr, TLSDir: l.spec.Dir, Protocol: l.spec.Protocol, Identity: i})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := w.Register(ctx, core.Registration{ID: i.id, ProtocolMin: 1, ProtocolMax: 1})
	if err != nil {
		return nil, err
	}
	ref := core.WorkerRef{ID: i.id, Epoch: r.Epoch}
	opened := make(chan struct{})
	go func() {
		l.fail(w.SubscribeOpen(context.Background(), ref, 0, func() { close(opened) }, func(core.Command) error { return nil }))
	}()
	select {
	case <-opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s, err := w.OpenHeartbeat(context.Background(), nil)
	return func(seq uint64) error {
		_, err := s.Beat(context.Background(), beat(ref, seq))
		return err
	}, err
}

// beat beats for ever: once to be ready, and then every H from a random moment on,
// which spreads the workers as real ones are.
func (l *loadProcess) beat(send beatFunc) {
	err := send(1)
	l.ready.Done()
	if err != nil {
		l.fail(err)
		return
	}
	<-time.After(rand.N(l.spec.H))
	tick := time.NewTicker(l.spec.H)
	for seq := uint64(2); ; seq++ {
		start := time.Now()
		if err := send(seq); err != nil {
			l.fail(err)
			return
		}
		d := time.Since(start)
		l.mu.Lock()
		l.times = append(l.times, d)
		l.mu.Unlock()
		<-tick.C
	}
}

func (l *loadProcess) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	if l.first == "" && err != nil {
		l.first = err.Error()
	}
}

// take returns what happened since the last take.
func (l *loadProcess) take() loadReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := loadReport{Beats: int64(len(l.times)), Failed: l.failed, FirstError: l.first}
	if n := len(l.times); n > 0 {
		slices.Sort(l.times)
		r.P50, r.P99, r.Max = l.times[n/2], l.times[n*99/100], l.times[n-1]
	}
	l.times = l.times[:0]
	return r
}

// cpuTime is the processor time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for one's own process
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
