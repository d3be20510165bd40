package cloudlocal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// A fault test of objects runs the store in a process of its own: this test
// binary, started again. The child writes one line for each put that returned,
// on a pipe that the fault does not touch; a line is therefore a promise.

// objectsChildEnv carries the child's task as JSON.
const objectsChildEnv = "ROLLOUT_CLOUDLOCAL_TEST_OBJECTS"

const (
	chaosWriters = 64
	chaosMinAcks = 64
)

type objectsTask struct {
	Root  string
	Round uint64
	Bug   string // "no directory sync": a planted bug
}

// chaosBytes are the bytes of a writer's n-th put. Every fourth is the same for all
// writers, and some are streams of several blocks.
func chaosBytes(round uint64, writer, n int) []byte {
	size, seed := 200+37*n%4000, round<<20|uint64(writer)<<10|uint64(n)
	if n%4 == 0 {
		seed = round<<20 | 1<<17 | uint64(n)
	}
	if n%9 == 8 {
		size = defaultBlock + 5000
	}
	return noise(size, seed)
}

// TestObjectsChild is the child. Without a task it has nothing to do.
func TestObjectsChild(t *testing.T) {
	text := os.Getenv(objectsChildEnv)
	if text == "" {
		return
	}
	var task objectsTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		t.Fatal(err)
	}
	cfg := ObjectsConfig{Root: task.Root, Logger: quiet()}
	if task.Bug != "" {
		disk, err := openDisk(task.Root)
		if err != nil {
			t.Fatal(err)
		}
		cfg.fs = &faultFS{fileSystem: disk, skipDirSync: true}
	}
	o, err := OpenObjects(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	acks := os.NewFile(3, "acks")
	var wg sync.WaitGroup
	for w := range chaosWriters {
		wg.Go(func() {
			for n, err := 0, error(nil); err == nil; { // until the disk is gone; what was acknowledged stands
				from := n
				n, err = chaosPut(o, task.Round, w, n)
				for ; from < n && err == nil; from++ {
					_, err = fmt.Fprintf(acks, "%d %d\n", w, from)
				}
			}
		})
	}
	wg.Wait()
}

// chaosPut stores a writer's n-th object, or a group of them, and returns the number
// of the next.
func chaosPut(o *Objects, round uint64, writer, n int) (int, error) {
	if writer%8 != 7 {
		_, err := o.Put(context.Background(), bytes.NewReader(chaosBytes(round, writer, n)), core.PutOptions{})
		return n + 1, err
	}
	blobs := make([]core.Blob, 2*bulkSyncs)
	for i := range blobs {
		blobs[i].Data = chaosBytes(round, writer, n+i)
	}
	_, err := o.PutMany(context.Background(), blobs)
	return n + len(blobs), err
}

// objectsChild is a child at work.
type objectsChild struct {
	t     *testing.T
	task  objectsTask
	cmd   *exec.Cmd
	acks  *os.File
	lines *bufio.Scanner
	errs  bytes.Buffer
	acked [][2]int
}

func startObjectsChild(t *testing.T, task objectsTask) *objectsChild {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &objectsChild{t: t, task: task, acks: r, lines: bufio.NewScanner(r)}
	c.cmd = exec.Command(os.Args[0], "-test.run=^TestObjectsChild$", "-test.timeout=10m")
	c.cmd.Env = append(os.Environ(), objectsChildEnv+"="+string(text))
	c.cmd.ExtraFiles = []*os.File{w}
	c.cmd.Stdout, c.cmd.Stderr = &c.errs, &c.errs
	if err := errors.Join(c.cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return c
}

// load reads promises until the child is gone. It calls fault, in a goroutine of
// its own, d after the least that makes a round count.
func (c *objectsChild) load(d time.Duration, fault func()) {
	c.t.Helper()
	over := make(chan struct{})
	armed := false
	for c.lines.Scan() {
		w, n, _ := strings.Cut(c.lines.Text(), " ")
		writer, werr := strconv.Atoi(w)
		number, nerr := strconv.Atoi(n)
		if werr != nil || nerr != nil {
			continue // the last line, cut short
		}
		c.acked = append(c.acked, [2]int{writer, number})
		if !armed && len(c.acked) >= chaosMinAcks {
			armed = true
			time.AfterFunc(d, func() {
				defer close(over)
				fault()
				_ = c.cmd.Process.Kill() // it may have ended by itself
			})
		}
	}
	if !armed {
		_ = c.cmd.Process.Kill() // as above
	} else {
		<-over
	}
	_ = c.cmd.Wait() // it was killed
	if err := errors.Join(c.lines.Err(), c.acks.Close()); err != nil {
		c.t.Fatal(err)
	}
	if !armed {
		c.t.Fatalf("the child ended after %d puts: %s", len(c.acked), c.errs.String())
	}
}

// check opens the store and returns what was promised and is not so.
func (c *objectsChild) check() error {
	o, err := OpenObjects(c.t.Context(), ObjectsConfig{Root: c.task.Root, Logger: quiet()})
	if err != nil {
		return err
	}
	defer o.Close()
	for i, a := range c.acked {
		want := chaosBytes(c.task.Round, a[0], a[1])
		got, err := core.ReadBlob(c.t.Context(), o, core.SumContent(want), 1<<20)
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("promise %d of %d: %w", i+1, len(c.acked), err)
		}
	}
	rs, err := o.Verify(c.t.Context(), nil, false)
	if err == nil && len(rs) > 0 {
		err = fmt.Errorf("torn: %v", rs)
	}
	if n := countFiles(c.t, filepath.Join(c.task.Root, tmpDir)); err == nil && n > 0 {
		err = fmt.Errorf("%d temporaries are left", n)
	}
	return err
}

// TestR10ObjectsKilled kills a loaded store again and again.
func TestR10ObjectsKilled(t *testing.T) {
	root := filepath.Join(t.TempDir(), "objects")
	acks := 0
	for round := range chaosCount(t, 20) {
		c := startObjectsChild(t, objectsTask{Root: root, Round: uint64(round)})
		c.load(time.Duration(rand.IntN(60))*time.Millisecond, func() {})
		acks += len(c.acked)
		if err := c.check(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	t.Logf("%d promises kept", acks)
}

// TestR7ObjectsRot damages one stored file at a time and wants that nothing wrong is
// ever read, that damage has its code, and that a scrub names what is damaged.
func TestR7ObjectsRot(t *testing.T) {
	root := t.TempDir()
	o := openAt(t, root)
	var ids []core.ContentID
	want := map[core.ContentID][]byte{}
	infos := map[core.ContentID]core.ObjectInfo{}
	for i, n := range []int{1, 100, 4096, 5000, 70_000, 600_000} {
		b := noise(n, uint64(i))
		info, err := o.Put(t.Context(), bytes.NewReader(b), core.PutOptions{ContentType: "text/plain"})
		if err != nil {
			t.Fatal(err)
		}
		ids, want[info.ID], infos[info.ID] = append(ids, info.ID), b, info
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 7))
	found, rounds := 0, chaosCount(t, 200)
	for i := range rounds {
		id := ids[rnd.IntN(len(ids))]
		name := filepath.Join(root, blobName(id))
		if rnd.IntN(3) == 0 {
			name = filepath.Join(root, metaName(id))
		}
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rotten := rot(rnd, whole)
		if err := os.WriteFile(name, rotten, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rotShows(t, o, id, want[id], infos[id]); err != nil {
			t.Fatalf("round %d, %s: %v", i, name, err)
		}
		rs, err := o.Verify(t.Context(), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		isMeta := strings.HasSuffix(name, metaSuffix)
		switch {
		case len(rs) == 1 && rs[0].ID == id && core.IsCode(rs[0].Err, core.CodeCorrupt):
			found++
		case len(rs) == 0 && isMeta: // a flip that changes no value, such as the case of a key
		default:
			t.Fatalf("round %d, %s: the scrub names %v", i, name, rs)
		}
		if err := os.WriteFile(name, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d named by the scrub, the others harmless", found, rounds)
}

// rot returns a damaged copy of b: one flipped bit, a cut, or a zeroed page.
func rot(rnd *rand.Rand, b []byte) []byte {
	out := bytes.Clone(b)
	for bytes.Equal(out, b) {
		switch rnd.IntN(4) {
		case 0, 1:
			out[rnd.IntN(len(out))] ^= 1 << rnd.IntN(8)
		case 2:
			out = out[:rnd.IntN(len(out))]
		default:
			at := rnd.IntN(len(out)) &^ 4095
			clear(out[at:min(at+4096, len(out))])
		}
	}
	return out
}

// rotShows reads an object in every way that promises verified answers.
func rotShows(t *testing.T, o *Objects, id core.ContentID, want []byte, info core.ObjectInfo) error {
	if got, err := core.ReadBlob(t.Context(), o, id, 1<<20); err == nil && !bytes.Equal(got, want) || err != nil && !core.IsCode(err, core.CodeCorrupt) {
		return fmt.Errorf("read: %d bytes, %w", len(got), err)
	}
	var copied bytes.Buffer
	r, err := o.Get(t.Context(), id)
	if err == nil {
		_, err = io.Copy(&copied, r)
		err = errors.Join(err, r.Close())
	}
	if err == nil && !bytes.Equal(copied.Bytes(), want) || err != nil && !core.IsCode(err, core.CodeCorrupt) {
		return fmt.Errorf("copy: %d bytes, %w", copied.Len(), err)
	}
	if got, err := o.Stat(t.Context(), id); err == nil && got != info || err != nil && !core.IsCode(err, core.CodeCorrupt) {
		return fmt.Errorf("stat: %+v, %w", got, err)
	}
	for got, err := range o.List(t.Context(), core.ContentID{}) {
		if got.ID == id && (err == nil && got != info || err != nil && !core.IsCode(err, core.CodeCorrupt)) {
			return fmt.Errorf("list: %+v, %w", got, err)
		}
	}
	return nil
}

// TestR5ObjectsKilledAtEachStep stops a store dead at each step between the first
// byte written and the last sync: what a kill leaves is what all calls behind it
// failing leaves, without the loss of what was not synced.
func TestR5ObjectsKilledAtEachStep(t *testing.T) {
	ctx := t.Context()
	for n := 1; ; n++ {
		mem := newMemFS()
		ff := &faultFS{fileSystem: mem}
		s := &script{o: openOn(t, ff)}
		ff.arm(n, errPowerCut, true)
		err := s.run(ctx)
		fired := ff.firedAt()
		if fired == "" {
			if err != nil {
				t.Error(err)
			}
			t.Logf("%d steps", n-1)
			return
		}
		mem.releaseLocks()
		o := openOn(t, mem)
		if err := s.check(ctx, o); err != nil {
			t.Errorf("killed at step %d (%s): %v", n, fired, err)
		}
		if n := mem.temporaries(); n > 0 {
			t.Errorf("killed at step %d (%s): %d temporaries are left", n, fired, n)
		}
	}
}

// needRootFor skips what this machine or user cannot do.
func needRootFor(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getenv("ROLLOUT_CHAOS_COUNT") == "" {
		t.Skip("NOT RUN: takes root and a loop device, see make chaos")
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: takes root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT RUN: %v", err)
		}
	}
}

func runTool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func removeIfThere(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
