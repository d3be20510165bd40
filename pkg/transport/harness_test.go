package transport

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// patience bounds every wait for something that must happen. Nothing is asserted
// about how long it takes: the machine may be busy.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if spec := os.Getenv(loadEnv); spec != "" {
		if err := loadMain(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { removeProgram(); os.Exit(code) }),
		// quic-go keeps one of these for the life of the process.
		goleak.IgnoreTopFunction("github.com/quic-go/quic-go.(*Transport).runSendQueue"))
}

// chaosCount is how often a fault is tried: few times in a test, as often as asked
// in a long run.
func chaosCount(t testing.TB, def int) int {
	t.Helper()
	s := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q is not a count", s)
	}
	return n
}

// wires runs a test over each protocol.
func wires(t *testing.T, f func(*testing.T, Protocol)) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		t.Run(string(p), func(t *testing.T) { f(t, p) })
	}
}

// harness is one coordinator on loopback with its directories.
type harness struct {
	t     testing.TB
	dir   string
	auth  *Authority
	core  *fakeCore
	srv   *Server
	proto Protocol
	log   *logSink
	stop  func() error
}

// logSink keeps what a server logs.
type logSink struct {
	slog.Handler
	mu      sync.Mutex
	records []slog.Record
}

func (l *logSink) Enabled(context.Context, slog.Level) bool { return true }

func (l *logSink) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	return nil
}

func (l *logSink) count(msg string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.records {
		if r.Message == msg {
			n++
		}
	}
	return n
}

type option func(*Config, *AuthorityConfig)

func newHarness(t testing.TB, p Protocol, opts ...option) *harness {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	ac := AuthorityConfig{Dir: filepath.Join(dir, "tls")}
	h := &harness{t: t, dir: dir, proto: p, log: &logSink{Handler: slog.DiscardHandler}}
	cfg := Config{Addr: "127.0.0.1:0", Protocol: p, Epoch: 1000, Logger: slog.New(h.log)}
	for _, o := range opts {
		o(&cfg, &ac)
	}
	if ac.Run.IsZero() {
		ac.Run = copyAuthority(t, ac.Dir)
	}
	var err error
	if h.auth, err = OpenAuthority(ac); err != nil {
		t.Fatal(err)
	}
	cfg.Authority = h.auth
	h.core = newFakeCore(ac.Run, cfg.Epoch, string(h.auth.JoinToken().Reveal()))
	h.start(cfg)
	return h
}

// ownCA makes a harness whose CA and run are its own.
func ownCA(_ *Config, a *AuthorityConfig) { a.Run = core.NewRunID() }

// aTLSDir is a TLS directory that was made once, as its files.
var aTLSDir = sync.OnceValues(func() (core.RunID, map[string][]byte) {
	dir, err := os.MkdirTemp("", "transport")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	run := core.NewRunID()
	if _, err := OpenAuthority(AuthorityConfig{Dir: dir, Run: run}); err != nil {
		panic(err)
	}
	if _, err := resetKey(dir); err != nil {
		panic(err)
	}
	files := map[string][]byte{}
	for _, name := range []string{FileCA, FileCAKey, FileToken, FileAdmin, FileAdminKey, fileReset} {
		if files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			panic(err)
		}
	}
	return run, files
})

// copyAuthority fills a TLS directory without a single sync, because what most tests
// try is not the disk, and returns its run.
func copyAuthority(t testing.TB, dir string) core.RunID {
	t.Helper()
	if err := makeDir(dir); err != nil {
		t.Fatal(err)
	}
	run, files := aTLSDir()
	for name, b := range files {
		mode := os.FileMode(modePrivate)
		if name == FileCA || name == FileAdmin {
			mode = modePublic
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, mode); err != nil {
			t.Fatal(err)
		}
	}
	return run
}

// start runs a server until the test ends or stop is called.
func (h *harness) start(cfg Config) {
	h.t.Helper()
	srv, err := NewServer(cfg, h.core.services())
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	var once sync.Once
	var end error
	h.srv = srv
	h.stop = func() error {
		once.Do(func() { cancel(); end = <-done })
		return end
	}
	stop := h.stop
	h.t.Cleanup(func() {
		if err := stop(); err != nil {
			h.t.Errorf("the server ended with %v", err)
		}
	})
}

// identity makes a worker's identity that has not enrolled.
func (h *harness) identity(id core.WorkerID) *Identity {
	h.t.Helper()
	i, err := OpenIdentity(filepath.Join(h.dir, id.String()), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// issued makes an identity with a certificate from the CA, past the rate limit of
// enrolments. It is on disk only once it is renewed, because many tests need many.
func (h *harness) issued(id core.WorkerID, life time.Duration) *Identity {
	h.t.Helper()
	i := &Identity{dir: filepath.Join(h.dir, id.String()), id: id, now: time.Now}
	pair, err := h.auth.WorkerCertificate(id, life)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := makeDir(i.dir); err != nil {
		h.t.Fatal(err)
	}
	i.cert, i.key = &pair, pair.PrivateKey.(*ecdsa.PrivateKey)
	return i
}

func (h *harness) issue(i *Identity, life time.Duration) {
	h.t.Helper()
	c, err := h.auth.IssueWorker(i.id, i.key.Public(), life)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := i.store(c.Raw); err != nil {
		h.t.Fatal(err)
	}
}

// client is the configuration of a worker on this machine.
func (h *harness) client(i *Identity) ClientConfig {
	return ClientConfig{Addr: h.srv.Addr(), TLSDir: h.auth.Dir(), Protocol: h.proto, Identity: i}
}

// worker dials as a new worker.
func (h *harness) worker() (*WorkerConn, core.WorkerID) {
	h.t.Helper()
	id := core.NewWorkerID()
	return h.dial(h.client(h.issued(id, time.Hour))), id
}

func (h *harness) dial(cfg ClientConfig) *WorkerConn {
	h.t.Helper()
	w, err := DialWorker(cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := w.Close(); err != nil {
			h.t.Errorf("close: %v", err)
		}
	})
	return w
}

// registered dials as a new worker and registers it.
func (h *harness) registered() (*WorkerConn, core.WorkerRef) {
	h.t.Helper()
	w, id := h.worker()
	r, err := w.Register(ctxFor(h.t), core.Registration{ID: id, ProtocolMin: 1, ProtocolMax: 1})
	if err != nil {
		h.t.Fatal(err)
	}
	return w, core.WorkerRef{ID: id, Epoch: r.Epoch}
}

// admin dials as the operator.
func (h *harness) admin() *AdminConn {
	h.t.Helper()
	a, err := DialAdmin(AdminConfig{Addr: h.srv.Addr(), TLSDir: h.auth.Dir()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			h.t.Errorf("close: %v", err)
		}
	})
	return a
}

// ctxFor bounds one call of a test.
func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// beat is a beat of a ready worker.
func beat(w core.WorkerRef, seq uint64) core.Heartbeat {
	return core.Heartbeat{Worker: w, Seq: seq, SentAt: time.Unix(1, 1).UTC(), State: core.StateReady}
}

// wantCode fails the test unless err has the code.
func wantCode(t testing.TB, err error, code core.Code) {
	t.Helper()
	if !core.IsCode(err, code) {
		t.Fatalf("error is %v (code %v), want code %v", err, core.CodeOf(err), code)
	}
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, patience)
		case <-tick.C:
		}
	}
}

// within receives one value.
func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}
