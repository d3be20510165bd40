package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/launch"
)

// startLauncher starts the launcher, gives it its orders and waits for its word.
func (p *process) startLauncher(ctx context.Context, env hostEnv, opts spawnOptions, pipes *sidecarPipes) error {
	spec := sidecarSpec(p.m, env, opts, p.dir)
	orderR, orderW, err := os.Pipe()
	if err != nil {
		return core.Wrap("sidecar: open pipes", core.CodeExhausted, err)
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return errors.Join(core.Wrap("sidecar: open pipes", core.CodeExhausted, err), orderR.Close(), orderW.Close())
	}
	start := func(userNS bool) error {
		p.cmd = launcherCommand(env.launcher, userNS)
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = orderR, reportW, pipes.errW
		p.cmd.ExtraFiles = []*os.File{pipes.stream, pipes.outW, pipes.errW, p.dir.lock}
		spec.UserNS = userNS
		return p.cmd.Start()
	}
	if userNS := os.Geteuid() != 0 && !spec.Network; !userNS || start(true) != nil {
		err = start(false)
	}
	// Only the launcher may hold these, or else their ends would tell nothing.
	err = errors.Join(err, orderR.Close(), reportW.Close())
	if err != nil {
		return errors.Join(core.Errorf("sidecar: start launcher", core.CodeUnavailable, "%s: %w", env.launcher[0], err), orderW.Close(), reportR.Close())
	}
	p.order = orderW
	reports := json.NewDecoder(reportR)
	first := make(chan error, 1)
	go p.watchLauncher(reports, reportR, first)
	if err := json.NewEncoder(orderW).Encode(spec); err != nil {
		p.kill()
		<-p.ended
		return core.Errorf("sidecar: start launcher", core.CodeUnavailable, "%s does not read its orders: %w", env.launcher[0], err)
	}
	select {
	case err = <-first:
	case <-ctx.Done():
		err = core.Wrap("sidecar: start", core.CodeDeadlineExceeded, ctx.Err())
	}
	if err != nil {
		p.kill()
		<-p.ended
	}
	return err
}

// launcherCommand prepares a launcher. An unprivileged worker starts it in a user
// namespace of its own, in which it may give the sidecar an empty network.
func launcherCommand(argv []string, userNS bool) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + systemPath, "LANG=C.UTF-8", "GOMAXPROCS=2"}
	cmd.SysProcAttr = launcherAttr(userNS)
	return cmd
}

// watchLauncher follows a launcher's reports to its end. The first of them, or
// its absence, goes to first.
func (p *process) watchLauncher(reports *json.Decoder, r io.Closer, first chan<- error) {
	defer close(p.ended)
	exitKnown := false
	for {
		var rep launch.Report
		if err := reports.Decode(&rep); err != nil {
			break
		}
		switch {
		case rep.Started != nil:
			p.childID, p.contain = rep.Started.PID, rep.Started.Containment
			first <- nil
		case rep.Failed != nil:
			first <- core.Errorf("sidecar: start", rep.Failed.Code, "%s", rep.Failed.Message)
		case rep.Exit != nil && !exitKnown:
			p.exit, exitKnown = *rep.Exit, true
			close(p.exited)
		}
	}
	_ = r.Close() // a pipe that is read to its end
	p.killGroup() // the launcher has done it, unless it was killed itself
	err := p.cmd.Wait()
	if !exitKnown {
		p.exit = launch.Exit{Code: -1, Reason: "its launcher ended first: " + waitText(err)}
		close(p.exited)
	}
	select {
	case first <- core.Errorf("sidecar: start launcher", core.CodeUnavailable, "%s ended without a report: %s", p.cmd.Path, waitText(err)):
	default: // it was heard before
	}
	// What the launcher could not remove any more is swept at the next start.
	_ = p.dir.remove()
}

func waitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}
