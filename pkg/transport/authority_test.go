package transport

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// openAt opens the authority of a directory and returns what it announced.
func openAt(t testing.TB, dir string, run core.RunID) (*Authority, string, error) {
	t.Helper()
	var notice bytes.Buffer
	a, err := OpenAuthority(AuthorityConfig{Dir: dir, Run: run, Notice: &notice})
	return a, notice.String(), err
}

func TestAuthorityIsMadeOnce(t *testing.T) {
	dir, run := filepath.Join(t.TempDir(), "a", "tls"), core.NewRunID()
	a, notice, err := openAt(t, dir, run)
	if err != nil || notice != "Generated dev CA at "+filepath.Join(dir, FileCA)+"\n" {
		t.Fatalf("first start: %q, %v", notice, err)
	}
	b, notice, err := openAt(t, dir, run)
	if err != nil || notice != "" {
		t.Fatalf("second start: %q, %v", notice, err)
	}
	if !bytes.Equal(a.roots[0].Raw, b.roots[0].Raw) || !bytes.Equal(a.token.Reveal(), b.token.Reveal()) {
		t.Error("the second start made another CA or token")
	}
	l, err := LoadAuthority(dir)
	if err != nil || l.Run() != run || !bytes.Equal(l.JoinToken().Reveal(), a.JoinToken().Reveal()) {
		t.Errorf("load: run %v, %v", l.Run(), err)
	}
	infos, err := Inspect(filepath.Join(dir, FileCA), filepath.Join(dir, FileAdmin), filepath.Join(dir, "absent"))
	if err != nil || len(infos) != 2 || !infos[0].CA || infos[1].Identity != "spiffe://rollout/"+run.String()+"/admin/admin" {
		t.Errorf("inspect: %+v, %v", infos, err)
	}
	if life := infos[1].NotAfter.Sub(infos[1].NotBefore); life < AdminLife || life > AdminLife+time.Hour {
		t.Errorf("the operator's certificate lasts %v", life)
	}
}

// TestAuthorityAtOnce starts many coordinators on one empty directory.
func TestAuthorityAtOnce(t *testing.T) {
	dir, run := filepath.Join(t.TempDir(), "tls"), core.NewRunID()
	const n = 16
	var wg sync.WaitGroup
	as, notices := make([]*Authority, n), make([]string, n)
	for i := range n {
		wg.Go(func() {
			var err error
			if as[i], notices[i], err = openAt(t, dir, run); err != nil {
				t.Errorf("start %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if got := strings.Count(strings.Join(notices, ""), "\n"); got != 1 {
		t.Errorf("%d of %d starts announced a CA, want 1", got, n)
	}
	for i := range as {
		if as[i] == nil || !bytes.Equal(as[i].roots[0].Raw, as[0].roots[0].Raw) {
			t.Fatalf("start %d uses another CA", i)
		}
	}
}

func TestAuthorityRefuses(t *testing.T) {
	in := func(name string) func(string) string {
		return func(dir string) string { return filepath.Join(dir, name) }
	}
	remove := func(path string) error { return os.Remove(path) }
	other := func(t *testing.T, name string) []byte {
		dir := filepath.Join(t.TempDir(), "x")
		if _, _, err := openAt(t, dir, core.NewRunID()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	cases := map[string]struct {
		path func(string) string
		harm func(t *testing.T, path string) error
		text string
	}{
		"key gone":         {in(FileCAKey), func(_ *testing.T, p string) error { return remove(p) }, FileCAKey + " is not: put the key back"},
		"certificate gone": {in(FileCA), func(_ *testing.T, p string) error { return remove(p) }, FileCA + " is not: put the certificate back"},
		"loose key":        {in(FileCAKey), func(_ *testing.T, p string) error { return os.Chmod(p, 0o640) }, "mode 0640"},
		"loose token":      {in(FileToken), func(_ *testing.T, p string) error { return os.Chmod(p, 0o604) }, "chmod 600"},
		"loose directory":  {in("."), func(_ *testing.T, p string) error { return os.Chmod(p, 0o755) }, "chmod 700"},
		"other key":        {in(FileCAKey), func(t *testing.T, p string) error { return os.WriteFile(p, other(t, FileCAKey), 0o600) }, "do not belong together"},
		"damaged key":      {in(FileCAKey), func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, "not a file of one PEM private key"},
		"damaged CA":       {in(FileCA), func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("x"), 0o644) }, "not a file of PEM certificates"},
		"empty token":      {in(FileToken), func(_ *testing.T, p string) error { return os.WriteFile(p, nil, 0o600) }, "is not one token"},
		"admin key gone":   {in(FileAdminKey), func(_ *testing.T, p string) error { return remove(p) }, "put the key back"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir, run := filepath.Join(t.TempDir(), "tls"), core.NewRunID()
			if _, _, err := openAt(t, dir, run); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(filepath.Join(dir, FileCA))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.harm(t, c.path(dir)); err != nil {
				t.Fatal(err)
			}
			_, _, err = openAt(t, dir, run)
			wantCode(t, err, core.CodeFailedPrecondition)
			if !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error reads %q, want one line with %q", err, c.text)
			}
			if after, err := os.ReadFile(filepath.Join(dir, FileCA)); err == nil && !bytes.Equal(before, after) && name != "damaged CA" {
				t.Error("a new CA was made silently")
			}
		})
	}
}

// TestAuthorityCompletes starts after a process that ended between the two renames
// that put a CA in place.
func TestAuthorityCompletes(t *testing.T) {
	dir, run := filepath.Join(t.TempDir(), "tls"), core.NewRunID()
	a, _, err := openAt(t, dir, run)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, FileCA), filepath.Join(dir, stagedCA)); err != nil {
		t.Fatal(err)
	}
	b, notice, err := openAt(t, dir, run)
	if err != nil || notice == "" || !bytes.Equal(a.roots[0].Raw, b.roots[0].Raw) {
		t.Errorf("the half that was left did not become the CA: %q, %v", notice, err)
	}
}

func TestAdminFollowsRunAndPair(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	if _, _, err := openAt(t, dir, core.NewRunID()); err != nil {
		t.Fatal(err)
	}
	next := core.NewRunID()
	if _, _, err := openAt(t, dir, next); err != nil {
		t.Fatal(err)
	}
	if l, err := LoadAuthority(dir); err != nil || l.Run() != next {
		t.Errorf("after a new run the operator's certificate is of %v, %v", l.Run(), err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, FileAdminKey), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openAt(t, dir, next); err != nil {
		t.Errorf("halves of two pairs: %v", err)
	}
	if _, err := loadPair(filepath.Join(dir, FileAdmin), filepath.Join(dir, FileAdminKey)); err != nil {
		t.Errorf("the pair was not replaced: %v", err)
	}
}

func TestIssueAdminElsewhere(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	dir := filepath.Join(t.TempDir(), "ops")
	if err := h.auth.IssueAdmin(dir, "ops-2", time.Hour); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.auth.IssueAdmin(dir, "No Name", time.Hour), core.CodeInvalidArgument)
	a, err := DialAdmin(AdminConfig{Addr: h.srv.Addr(), TLSDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Status(ctxFor(t)); err != nil {
		t.Errorf("status as ops-2: %v", err)
	}
}

func TestClockIsBlamed(t *testing.T) {
	dir, run := filepath.Join(t.TempDir(), "tls"), core.NewRunID()
	if _, _, err := openAt(t, dir, run); err != nil {
		t.Fatal(err)
	}
	for _, off := range []time.Duration{-24 * time.Hour, 11 * 365 * 24 * time.Hour} {
		_, err := OpenAuthority(AuthorityConfig{Dir: dir, Run: run, Now: func() time.Time { return time.Now().Add(off) }})
		wantCode(t, err, core.CodeFailedPrecondition)
		if !strings.Contains(err.Error(), "clock") {
			t.Errorf("with the clock off by %v the error reads %v", off, err)
		}
	}
}

// TestS6Files starts with umask 0 and checks every file and directory.
func TestS6Files(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	h := newHarness(t, ProtocolQUIC, ownCA)
	i := h.identity(core.NewWorkerID())
	if err := Enrol(ctxFor(t), h.client(i)); err != nil {
		t.Fatal(err)
	}
	seen := map[string]fs.FileMode{}
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		switch {
		case d.IsDir():
			want = 0o700
		case d.Name() == FileCA || d.Name() == FileAdmin:
			want = 0o644
		}
		if path != h.dir && info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		seen[d.Name()] = info.Mode()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{FileCA, FileCAKey, FileToken, FileAdmin, FileAdminKey, fileReset, FileWorker, FileWorkerKey} {
		if _, ok := seen[name]; !ok {
			t.Errorf("%s was not made", name)
		}
	}
}

// TestS6LooseIdentity refuses a worker's key that others may read or own.
func TestS6LooseIdentity(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	id := core.NewWorkerID()
	i := h.identity(id)
	h.issue(i, time.Hour)
	again := func() error { _, err := OpenIdentity(i.dir, id); return err }
	if err := again(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(i.dir, FileWorkerKey), filepath.Join(i.dir, FileWorker), i.dir} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, info.Mode().Perm()|0o004); err != nil {
			t.Fatal(err)
		}
		wantCode(t, again(), core.CodeFailedPrecondition)
		if err := os.Chmod(path, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		path := filepath.Join(i.dir, FileWorkerKey)
		if err := os.Chown(path, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		err := again()
		wantCode(t, err, core.CodeFailedPrecondition)
		if !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("a foreign owner reads %v", err)
		}
	} else {
		t.Log("NOT RUN: the foreign-owner part needs root")
	}
}

func TestIdentityLife(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	id := core.NewWorkerID()
	now := time.Now()
	i, err := openIdentity(filepath.Join(h.dir, "w"), id, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if i.Valid() || !i.RenewAt().IsZero() || i.Serial() != "" {
		t.Error("an identity without a certificate claims one")
	}
	h.issue(i, 24*time.Hour)
	if d := i.RenewAt().Sub(now); d < 11*time.Hour || d > 13*time.Hour {
		t.Errorf("a certificate of 24 h is renewed after %v, want half", d)
	}
	if !i.Valid() || len(i.Serial()) != 32 {
		t.Errorf("fresh certificate: valid %v, serial %q", i.Valid(), i.Serial())
	}
	now = i.NotAfter()
	if c, _ := i.getClientCertificate(nil); i.Valid() || len(c.Certificate) != 0 {
		t.Error("an expired certificate is presented")
	}
	if err := i.Discard(); err != nil || i.Serial() != "" {
		t.Errorf("discard: %v", err)
	}
	if err := i.Discard(); err != nil {
		t.Errorf("discard again: %v", err)
	}
	if _, err := OpenIdentity(i.dir, core.NewWorkerID()); err != nil {
		t.Errorf("a key alone names nobody: %v", err)
	}
	h.issue(i, time.Hour)
	_, err = OpenIdentity(i.dir, core.NewWorkerID())
	wantCode(t, err, core.CodeFailedPrecondition)
	if err := os.Remove(filepath.Join(i.dir, FileWorkerKey)); err != nil {
		t.Fatal(err)
	}
	_, err = OpenIdentity(i.dir, id)
	wantCode(t, err, core.CodeFailedPrecondition)
}

func TestServerCertificate(t *testing.T) {
	h := newHarness(t, ProtocolH2, func(c *Config, _ *AuthorityConfig) { c.ServerNames = []string{"gpu-7.example.org", "10.1.2.3"} })
	c, err := h.srv.certs.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "gpu-7.example.org", "10.1.2.3"} {
		if err := c.Leaf.VerifyHostname(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: h.auth.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the server's certificate can stand for a client")
	}
	if _, err := os.Stat(filepath.Join(h.auth.Dir(), "server.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the server's certificate lies on disk")
	}
}
