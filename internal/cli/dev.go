package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/core"
)

const devHelp = `dev starts a coordinator and workers in one terminal, from an empty directory, and
shows what they tell in one readable log. They are the programs coordinator and worker,
which lie beside this one or on PATH, with the same configuration: what works here works
apart. Ctrl-C drains the workers, then ends the coordinator; a second one ends all.

Workers keep their data in w1, w2, ... below the data directory.`

// devOptions are the flags of dev.
type devOptions struct {
	workers   int
	listen    string
	plugins   []string
	hotReload bool
}

func devCmd(t *tool) *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use: "dev", Short: "Run a coordinator and workers in this terminal", Long: devHelp, Args: args(cobra.NoArgs),
		Example: "  rollout dev --plugin examples/gsm8k-reward/rollout-plugin.toml",
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.dev(cmd.Context(), o) },
	}
	f := c.Flags()
	f.IntVar(&o.workers, "workers", 2, "how many workers to start")
	f.StringVar(&o.listen, "listen", "", "where the coordinator listens, `host:port`; port 0 picks a free one (default: as configured)")
	f.StringArrayVar(&o.plugins, "plugin", nil, "`manifest` file or name of a plugin that every worker loads; may be repeated")
	f.BoolVar(&o.hotReload, "hot-reload", false, "exchange a plugin when its files change")
	return c
}

// dev is the command.
func (t *tool) dev(ctx context.Context, o devOptions) error {
	if o.workers < 0 || o.workers > 64 {
		return usagef("--workers is %d, give a number from 0 to 64", o.workers)
	}
	l, err := t.load(config.Operator)
	if err != nil {
		return err
	}
	coordinator, err := findProgram("coordinator")
	if err != nil {
		return err
	}
	worker, err := findProgram("worker")
	if err != nil {
		return err
	}
	d := &devRun{t: t, o: o, dataDir: l.Config.DataDir, tlsDir: l.Config.TLSDir, worker: worker, ended: make(chan *part, o.workers+1), starter: newStarter()}
	defer d.starter.stop()
	return d.run(ctx, coordinator)
}

// findProgram looks beside this part, then on PATH.
func findProgram(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", core.Errorf("dev", core.CodeNotFound, "the program %s lies neither beside rollout nor on PATH: build all three with `make build`", name)
	}
	return filepath.Abs(path)
}

// devRun is one run of dev.
type devRun struct {
	t               *tool
	o               devOptions
	dataDir, tlsDir string
	worker          string
	ended           chan *part
	starter         *starter
	out             sync.Mutex // serialises lines on the terminal
}

// part is one program that dev has started.
type part struct {
	name    string
	cmd     *exec.Cmd
	started chan string // the address, once coordinator_started was seen
	err     error       // how it ended; set before it is sent to ended
	over    chan struct{}
}

// run starts everything and ends it in order.
func (d *devRun) run(ctx context.Context, path string) error {
	coordinator, err := d.start("coordinator", path, d.common("--data-dir", d.dataDir), listenEnv(d.o.listen))
	if err != nil {
		return err
	}
	var workers []*part
	err = func() error {
		var addr string
		select {
		case addr = <-coordinator.started:
		case <-coordinator.over:
			return core.Errorf("dev", core.CodeUnavailable, "the coordinator did not start, its last lines say why")
		case <-ctx.Done():
			return nil
		}
		for i := range d.o.workers {
			w, err := d.startWorker(i+1, addr)
			if err != nil {
				return err
			}
			workers = append(workers, w)
		}
		return d.watch(ctx, coordinator)
	}()
	return errors.Join(err, d.stopAll(coordinator, workers))
}

// common returns the arguments that every program gets.
func (d *devRun) common(args ...string) []string {
	for _, f := range d.t.files {
		args = append(args, "--config", f)
	}
	if d.t.logLevel != "" {
		args = append(args, "--log-level", d.t.logLevel)
	}
	return args
}

func listenEnv(addr string) []string {
	if addr == "" {
		return nil
	}
	return []string{"ROLLOUT_TRANSPORT_LISTEN_ADDR=" + addr}
}

func (d *devRun) startWorker(n int, addr string) (*part, error) {
	name := fmt.Sprintf("w%d", n)
	args := d.common("--data-dir", filepath.Join(d.dataDir, name), "--tls-dir", d.tlsDir, "--addr", addr)
	for _, p := range d.o.plugins {
		args = append(args, "--plugin", p)
	}
	if d.o.hotReload {
		args = append(args, "--hot-reload")
	}
	return d.start(name, d.worker, args, nil)
}

// start starts one program and reads what it says.
func (d *devRun) start(name, path string, args, env []string) (*part, error) {
	c := &part{name: name, cmd: exec.Command(path, args...), started: make(chan string, 1), over: make(chan struct{})}
	c.cmd.Env = append(append(os.Environ(), "ROLLOUT_LOG_FORMAT=text"), env...)
	// A group of its own keeps Ctrl-C from reaching it beside us: dev says who ends
	// when. It also ends with dev, however that ends.
	c.cmd.SysProcAttr = childAttr()
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, core.Wrap("dev", core.CodeInternal, err)
	}
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, core.Wrap("dev", core.CodeInternal, err)
	}
	if err := d.starter.start(c.cmd); err != nil {
		return nil, core.Errorf("dev", core.CodeInternal, "%s could not be started: %w", path, err)
	}
	d.line(name, fmt.Sprintf("started, pid %d", c.cmd.Process.Pid))
	var readers sync.WaitGroup
	readers.Go(func() { d.readEvents(c, stdout) })
	readers.Go(func() { d.readLog(c, stderr) })
	go func() {
		readers.Wait()
		c.err = c.cmd.Wait()
		close(c.over)
		d.ended <- c
	}()
	return c, nil
}

// watch reports programs that end by themselves until ctx ends or the coordinator
// does.
func (d *devRun) watch(ctx context.Context, coordinator *part) error {
	for {
		select {
		case <-ctx.Done():
			d.line("dev", "draining; Ctrl-C again ends everything at once")
			return nil
		case c := <-d.ended:
			d.line(c.name, "ended: "+endText(c.err))
			if c == coordinator {
				return core.Errorf("dev", core.CodeUnavailable, "the coordinator ended by itself: %s", endText(c.err))
			}
		}
	}
}

func endText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// stopAll drains the workers, then ends the coordinator.
func (d *devRun) stopAll(coordinator *part, workers []*part) error {
	for _, group := range [][]*part{workers, {coordinator}} {
		for _, c := range group {
			select {
			case <-c.over:
			default:
				if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
					return core.Wrap("dev", core.CodeInternal, err)
				}
			}
		}
		for _, c := range group {
			<-c.over
			d.line(c.name, "ended: "+endText(c.err))
		}
	}
	return nil
}

// readEvents prints events, readable for people, as they are for programs.
func (d *devRun) readEvents(c *part, r io.Reader) {
	eachLine(r, func(line []byte) {
		var ev core.Event
		if err := json.Unmarshal(line, &ev); err != nil {
			d.line(c.name, string(line))
			return
		}
		if ev.Topic == core.TopicCoordinatorStarted {
			if addr, ok := ev.Attrs["addr"].(string); ok {
				c.started <- addr
			}
		}
		if d.t.json {
			d.out.Lock()
			defer d.out.Unlock()
			fmt.Fprintf(d.t.stdout, "%s\n", line)
			return
		}
		d.line(c.name, eventText(ev))
	})
}

// eventText tells an event in one line.
func eventText(ev core.Event) string {
	var b strings.Builder
	b.WriteString(ev.Topic)
	if ev.PluginID != "" {
		b.WriteString(" " + ev.PluginID)
	}
	if ev.WorkerID != "" {
		b.WriteString(" worker=" + ev.WorkerID)
	}
	if ev.Message != "" {
		b.WriteString(" " + cell(ev.Message))
	}
	if len(ev.Attrs) > 0 {
		delete(ev.Attrs, "inventory")
		if attrs, err := json.Marshal(ev.Attrs); err == nil {
			b.WriteString(" " + cell(string(attrs)))
		}
	}
	return b.String()
}

// readLog passes log lines on.
func (d *devRun) readLog(c *part, r io.Reader) {
	eachLine(r, func(line []byte) { d.line(c.name, cell(string(line))) })
}

func eachLine(r io.Reader, each func([]byte)) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			each(bytes.TrimSuffix(line, []byte("\n")))
		}
		if err != nil {
			return
		}
	}
}

// line prints one line of a part.
func (d *devRun) line(name, text string) {
	if d.t.json {
		return
	}
	d.out.Lock()
	defer d.out.Unlock()
	fmt.Fprintf(d.t.stdout, "%s %-11s %s\n", time.Now().Format("15:04:05.000"), name, text)
}

// starter starts programs from one thread that lives as long as dev: the kernel ends
// a program with the thread that started it.
type starter struct {
	jobs chan func()
	done chan struct{}
}

func newStarter() *starter {
	s := &starter{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer close(s.done)
		for f := range s.jobs {
			f()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	s.jobs <- func() { err <- cmd.Start() }
	return <-err
}

func (s *starter) stop() {
	close(s.jobs)
	<-s.done
}
