package mainjob

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// oneProcess is the main job by hand: one Python process, the same reward, one fsync
// for each result.
const oneProcess = `
import os, sys
sys.path.insert(0, sys.argv[1])
import gsm8k_reward
plugin = gsm8k_reward.create_plugin()
out = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
with open(sys.argv[2], "rb") as lines:
    for line in lines:
        os.write(out, plugin.call("score", line) + b"\n")
        os.fsync(out)
`

// BenchmarkScore measures submit to last result: on two workers with one sidecar each,
// one of them killed halfway, beside the same work in one process. Items per second.
func BenchmarkScore(b *testing.B) {
	in := completions(b)
	perSecond := func(b *testing.B, took time.Duration) {
		b.ReportMetric(float64(len(in.ids)*b.N)/took.Seconds(), "items/s")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("one-process", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			start := time.Now()
			cmd := exec.Command("python3", "-c", oneProcess, filepath.Join(programs, "plugin"), in.path, filepath.Join(b.TempDir(), "out"))
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			took += time.Since(start)
		}
		perSecond(b, took)
	})
	for _, kill := range []bool{false, true} {
		name := map[bool]string{false: "two-workers", true: "two-workers-one-killed"}[kill]
		b.Run(name, func(b *testing.B) {
			c := newCluster(b, "h2", 2, "gsm8k-reward")
			var took time.Duration
			for range b.N {
				start := time.Now()
				s := c.submit(in, "gsm8k-reward", "out")
				if kill {
					c.await("half of the items", func() bool {
						done, items := c.progress("gsm8k-reward")
						return items == int64(len(in.ids)) && done*2 > items && done < items || len(s.done) > 0
					})
					c.work[0].signal(syscall.SIGKILL)
				}
				c.wait(s, in)
				took += time.Since(start)
				c.await("the workers to be back", func() bool { return c.ready() == 2 })
			}
			perSecond(b, took)
		})
	}
}

// BenchmarkCoordinatorStart measures from exec to the event that says it serves, on a
// data directory that has been used before.
func BenchmarkCoordinatorStart(b *testing.B) {
	dir := b.TempDir()
	start := func() time.Duration {
		cmd := exec.Command(filepath.Join(programs, "coordinator"), "--data-dir", dir)
		cmd.Env = append(environ(), "ROLLOUT_TRANSPORT_LISTEN_ADDR=127.0.0.1:0")
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := out.Read(buf)
		took := time.Since(began)
		if err != nil || !strings.Contains(string(buf[:n]), "coordinator_started") {
			b.Fatalf("%v, %s", err, buf[:n])
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = out.Read(buf)
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		return took
	}
	start() // makes keys and store
	var total time.Duration
	for b.Loop() {
		total += start()
	}
	b.ReportMetric(total.Seconds()*1000/float64(b.N), "start-ms")
}

// BenchmarkIdleMemory reports the resident memory of an idle coordinator and of an
// idle worker without plugins, in bytes.
func BenchmarkIdleMemory(b *testing.B) {
	for b.Loop() {
		c := newCluster(b, "h2", 1)
		b.ReportMetric(float64(resident(b, c.coord)), "coordinator-B")
		b.ReportMetric(float64(resident(b, c.work[0])), "worker-B")
	}
}

func resident(b *testing.B, s *service) int64 {
	s.mu.Lock()
	pid := s.cmd.Process.Pid
	s.mu.Unlock()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("no VmRSS in status")
	return 0
}

// plainSleep is what the sleeper does on two threads without anybody in between.
const plainSleep = `
import sys, threading
sys.path.insert(0, sys.argv[1])
import sleeper
plugin = sleeper.create_plugin()
def work():
    for _ in range(int(sys.argv[2]) // 2):
        plugin.call("wait", b"{}")
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
`

// BenchmarkWorkers measures items that take 10 ms on one to four workers of two slots,
// beside as many processes that do nothing but call the plugin on two threads.
func BenchmarkWorkers(b *testing.B) {
	const each = 1000 // items for each worker: enough to drown what a job costs by itself
	perSecond := func(b *testing.B, workers int, took time.Duration) {
		b.ReportMetric(float64(workers*each*b.N)/took.Seconds(), "items/s")
		b.ReportMetric(0, "ns/op")
	}
	for _, workers := range []int{1, 2, 4} {
		b.Run(strconv.Itoa(workers)+"/ours", func(b *testing.B) {
			c := newCluster(b, "h2", workers, "sleeper")
			var text strings.Builder
			for i := range workers * each {
				text.WriteString(`{"id": "` + strconv.Itoa(i) + "\"}\n")
			}
			in := filepath.Join(c.dir, "lines.jsonl")
			if err := os.WriteFile(in, []byte(text.String()), 0o600); err != nil {
				b.Fatal(err)
			}
			var took time.Duration
			for range b.N {
				start := time.Now()
				if _, err := c.tool(nil, "submit", "--plugin", "sleeper", "--method", "wait", "--input", in, "--wait", "--output", c.path("out")); err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
			}
			perSecond(b, workers, took)
		})
		b.Run(strconv.Itoa(workers)+"/hand", func(b *testing.B) {
			var took time.Duration
			for range b.N {
				start := time.Now()
				var group errgroup.Group
				for range workers {
					group.Go(exec.Command("python3", "-c", plainSleep, filepath.Dir(manifestOf(b, "sleeper")), strconv.Itoa(each)).Run)
				}
				if err := group.Wait(); err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
			}
			perSecond(b, workers, took)
		})
	}
}
