package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// heldPlugin answers once a file beside it is there, so that a job cannot end before.
const heldPlugin = `import os, time

class Held:
    def call(self, method, payload):
        while not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "go")):
            time.sleep(0.02)
        return payload

def create_plugin():
    return Held()
`

const heldManifest = `name = "held"
version = "0.1.0"
kind = "custom"
trait_id = "rollout.v1.Custom"
mode = "sidecar"

[runtime]
call_timeout = "5m"

[entry.sidecar]
command = ["python3", "-m", "rollout_plugin", "run", "held"]
`

// TestHostsOneLinkCutAndHealed runs a coordinator and two workers on machines of their
// own. One worker's cable is pulled: it is declared failed within two heartbeat
// intervals and has fenced itself before; plugged in again it comes back in a new epoch.
// The other worker never fails, and the job that ran meanwhile has every result once.
func TestHostsOneLinkCutAndHealed(t *testing.T) {
	// Real clocks are judged in the long run only: beside other tests a process may
	// not run for longer than any interval.
	protocols, judged, interval := []string{"h2"}, os.Getenv("ROLLOUT_CHAOS_COUNT") != "", time.Second
	if judged {
		protocols = []string{"h2", "quic"}
	}
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			n := startNetwork(t, protocol, interval)
			n.judged = judged
			for range rounds(t, 1) {
				n.cutAndHeal()
			}
			n.endJob()
			n.end()
		})
	}
}

// network is a coordinator and two workers on machines of their own.
type network struct {
	t        *testing.T
	h        *hosts
	dir      string
	coord    *running
	one, two *running
	first    string // id of the worker on machine one
	job      string
	cuts     int
	interval time.Duration // between heartbeats
	judged   bool          // the times that are promised must hold
	reach    []string      // flags of the operator's tool
}

func startNetwork(t *testing.T, protocol string, interval time.Duration) *network {
	t.Helper()
	h := newHosts(t)
	h.add("coordinator", "one", "two")
	n := &network{t: t, h: h, dir: t.TempDir(), interval: interval}
	t.Setenv("ROLLOUT_TRANSPORT_PROTOCOL", protocol)
	t.Setenv("ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL", interval.String())
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", "10.231.77.1:50051")
	t.Setenv("ROLLOUT_TRANSPORT_SERVER_NAMES", "coordinator.rollout.test")
	t.Setenv("ROLLOUT_COORDINATOR_ADDR", "coordinator.rollout.test:50051")
	t.Setenv("ROLLOUT_COORDINATOR_DOMAIN", "coordinator.rollout.test")
	t.Setenv("ROLLOUT_WORK_MAX_LOSSES", "1000")
	n.reach = []string{"--tls-dir", n.path("c", "tls"), "--timeout", "60s"}
	n.coord = h.start("coordinator", "coordinator", "--data-dir", n.path("c"))
	n.coord.await(core.TopicCoordinatorStarted, 1)

	n.write("p/held.py", heldPlugin)
	n.write("p/rollout-plugin.toml", heldManifest)
	// A worker gets the certificate of the CA and a token of its own, and nothing else.
	token := strings.TrimSpace(h.call("coordinator", append([]string{"token", "new", "--ttl", "1h", "--uses", "2"}, n.reach...)...))
	for _, w := range []string{"one", "two"} {
		n.write(w+"/tls/ca.pem", readFile(t, n.path("c", "tls", "ca.pem")))
		n.write(w+"/tls/join.token", token+"\n")
	}
	n.wrongName()
	n.one = n.worker("one")
	n.first = n.coord.await(core.TopicWorkerRegistered, 1).WorkerID
	n.two = n.worker("two")
	n.coord.await(core.TopicWorkerRegistered, 2)
	n.one.await(core.TopicPluginLoaded, 1)
	n.two.await(core.TopicPluginLoaded, 1)

	n.write("in.jsonl", strings.Repeat("{\"n\": 1}\n", 200))
	n.job = strings.TrimSpace(h.call("coordinator", append([]string{"submit", "--plugin", "held", "--method", "any", "--input", n.path("in.jsonl")}, n.reach...)...))
	return n
}

func (n *network) path(parts ...string) string {
	return filepath.Join(append([]string{n.dir}, parts...)...)
}

func (n *network) write(name, text string) {
	n.t.Helper()
	file := n.path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *network) worker(host string) *running {
	return n.h.start(host, "worker", "--data-dir", n.path(host), "--plugin", n.path("p", "rollout-plugin.toml"))
}

// wrongName tries a worker that expects another name in the certificate.
func (n *network) wrongName() {
	n.t.Helper()
	n.t.Setenv("ROLLOUT_COORDINATOR_DOMAIN", "another.rollout.test")
	w := n.h.start("one", "worker", "--data-dir", n.path("wrong"), "--tls-dir", n.path("one", "tls"))
	n.t.Setenv("ROLLOUT_COORDINATOR_DOMAIN", "coordinator.rollout.test")
	if code := w.wait(); code != ExitRefused {
		n.t.Errorf("a worker that expects another name ends with %d:\n%s", code, w.stderr())
	}
}

// cutAndHeal cuts worker one off until it is declared failed, and lets it come back.
func (n *network) cutAndHeal() {
	n.t.Helper()
	n.cuts++
	n.h.cut("one")
	cut := time.Now()
	failed := n.coord.awaitOf(core.TopicWorkerFailed, n.first, n.cuts)
	fenced := n.one.await(core.TopicWorkerFenced, n.cuts)
	took, ahead := failed.Time.Sub(cut), failed.Time.Sub(fenced.Time)
	n.t.Logf("cut %d: failed after %v, fenced %v before that", n.cuts, took.Round(time.Millisecond), ahead.Round(time.Millisecond))
	if n.judged && (took > 2*n.interval || ahead < 0) {
		n.t.Errorf("at most %v are promised, and that it has fenced itself", 2*n.interval)
	}
	n.h.heal("one")
	back := n.coord.awaitOf(core.TopicWorkerRecovered, n.first, n.cuts)
	if was, is := failed.Attrs["epoch"].(float64), back.Attrs["epoch"].(float64); is <= was {
		n.t.Errorf("it failed in epoch %v and came back in epoch %v", was, is)
	}
}

// endJob lets the plugins answer and checks what the job gave.
func (n *network) endJob() {
	n.t.Helper()
	n.write("p/go", "")
	out := n.path("out.jsonl")
	n.h.call("coordinator", append([]string{"job", "results", n.job, "--wait", "--output", out}, n.reach...)...)
	rs := results(n.t, readFile(n.t, out))
	if len(rs) != 200 {
		n.t.Errorf("%d results of 200 items", len(rs))
	}
	by := map[core.WorkerID]int{}
	for i, r := range rs {
		if by[r.WorkerID]++; r.Index != int64(i) || r.Status != core.ResultOK {
			n.t.Errorf("result %d is %+v", i, r)
			break
		}
	}
	n.t.Logf("items by worker: %v", by)
}

// end stops everything in order.
func (n *network) end() {
	n.t.Helper()
	for name, r := range map[string]*running{"one": n.one, "two": n.two} {
		if code := r.exit(); code != ExitOK {
			n.t.Errorf("worker %s ends with %d", name, code)
		}
	}
	if code := n.coord.exit(); code != ExitOK {
		n.t.Errorf("the coordinator ends with %d", code)
	}
	for _, ev := range n.coord.topics(core.TopicWorkerFailed) {
		if n.judged && ev.WorkerID != n.first {
			n.t.Errorf("the worker that nobody cut off failed: %v", ev.Attrs)
		}
	}
}
