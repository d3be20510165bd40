// Embed is a Go program that contains a coordinator and two workers. The work is a Go
// function of the program itself, and the coordinator's state lies in a storage of the
// program's own, package journal.
//
//	cd examples/embed && go run .
//
// It is a module of its own, as yours would be: it uses nothing but public packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rollout-substrate/rollout/examples/embed/journal"
	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

func main() {
	dir, err := os.MkdirTemp("", "rollout-embed-")
	if err == nil {
		err = errors.Join(run(context.Background(), dir, os.Stdout), os.RemoveAll(dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run starts everything below dir, has five words counted, and ends everything in order.
func run(ctx context.Context, dir string, out io.Writer) (err error) {
	store, err := journal.Open(journal.Config{Path: filepath.Join(dir, "journal")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	objects, err := cloudlocal.OpenObjects(ctx, cloudlocal.ObjectsConfig{Root: filepath.Join(dir, "objects")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()

	tls := filepath.Join(dir, "tls")
	c, err := coordinator.New(coordinator.Config{
		Storage: store, Objects: objects, Work: coordinator.Jobs(coordinator.JobsConfig{}),
		ListenAddr: "127.0.0.1:0", TLSDir: tls,
	})
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	group, failed := errgroup.WithContext(serving)
	group.Go(func() error { return c.Run(serving) })
	select {
	case <-c.Ready():
	case <-failed.Done():
		return group.Wait()
	}

	working, drain := context.WithCancel(failed)
	defer drain()
	workers, failed := errgroup.WithContext(failed)
	for _, name := range []string{"one", "two"} {
		workers.Go(func() error { return work(working, c.Addr(), tls, filepath.Join(dir, name)) })
	}
	err = score(failed, c.Workbook(), out)

	drain() // the end of a worker's context drains it
	err = errors.Join(err, workers.Wait())
	stop()
	return errors.Join(err, group.Wait())
}

// work is one worker, whose only plugin is a function of this program.
func work(ctx context.Context, addr, tls, dir string) error {
	functions, err := worker.NewFunctions(worker.GoPlugin{
		Name: "text", Version: "1", Methods: map[string]worker.Function{"letters": letters},
	})
	if err != nil {
		return err
	}
	store := memstore.New(memstore.Options{}) // nothing of it is needed at the next start
	err = worker.Run(ctx, worker.Config{Store: store, IdentityDir: dir, Addr: addr, TLSDir: tls, Executor: functions})
	return errors.Join(err, store.Close())
}

// letters counts the letters of a JSON string.
func letters(_ context.Context, payload []byte) ([]byte, error) {
	word := strings.Trim(string(payload), `"`)
	if word == "" {
		return nil, errors.New("the word is empty")
	}
	return fmt.Append(nil, len(word)), nil
}

// score submits words and prints what comes back, in their order.
func score(ctx context.Context, book core.Jobs, out io.Writer) error {
	words := []string{"storage", "queue", "", "worker", "epoch"}
	job, err := book.Submit(ctx, core.JobSpec{Plugin: "text", Method: "letters"}, func() (core.JobItem, error) {
		if len(words) == 0 {
			return core.JobItem{}, io.EOF
		}
		item := core.JobItem{ID: words[0], Payload: []byte(`"` + words[0] + `"`)}
		words = words[1:]
		return item, nil
	})
	if err != nil {
		return err
	}
	return book.Results(ctx, job.ID, 0, true, func(r core.ItemResult) error {
		answer := string(r.Result)
		if r.Error != nil {
			answer = r.Error.Message
		}
		_, err := fmt.Fprintf(out, "%d %s %q: %s\n", r.Index, r.Status, r.ID, answer)
		return err
	})
}
