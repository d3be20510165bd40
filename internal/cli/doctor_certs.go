package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rollout-substrate/rollout/pkg/transport"
)

// pair is a certificate and its key.
type pair struct {
	name, cert, key string
	renewed         bool   // by its own program, in time
	renew           string // what makes a new one
	half            string // what to do about one without the other
}

// soon is how long before the end of a certificate one hears of it.
const soon = 30 * 24 * time.Hour

// certificates looks at the pairs of the TLS directory and of the worker.
func (d *doctor) certificates(context.Context) {
	in, id := d.cfg.TLSDir, d.cfg.IdentityDir()
	ca := pair{
		name: "ca certificate", cert: filepath.Join(in, transport.FileCA), key: filepath.Join(in, transport.FileCAKey),
		renew: "stop the programs, move the TLS directory and each worker's identity directory away, start the coordinator and hand ca.pem and join.token out again",
		half:  "put the missing half back from a copy, or remove the other to start with a new CA that no worker trusts yet",
	}
	admin := pair{
		name: "admin certificate", cert: filepath.Join(in, transport.FileAdmin), key: filepath.Join(in, transport.FileAdminKey),
		renew: "on the coordinator's machine: rollout cert rotate",
		half:  "remove the half that is left and restart the coordinator, which makes a new pair, or hand one out with: rollout cert issue",
	}
	worker := pair{
		name: "worker certificate", cert: filepath.Join(id, transport.FileWorker), key: filepath.Join(id, transport.FileWorkerKey),
		renewed: true, renew: "nothing while the worker runs; it renews the certificate itself",
		half: "remove the half that is left; the worker enrols again with join.token",
	}
	if _, err := os.Lstat(ca.cert); errors.Is(err, fs.ErrPermission) {
		d.add("certificates", healthFail, "run as the user they belong to, or name another directory with --tls-dir", "%v", err)
	} else if !fileExists(ca.cert) && !fileExists(ca.key) && !fileExists(admin.cert) {
		d.add("certificates", healthNote, "a coordinator makes them at its first start; a worker on another machine needs ca.pem and join.token from there", "none in %s yet", in)
	} else {
		if d.onlyTrusts(ca) {
			d.add("ca key", healthNote, "nothing, unless a coordinator is to start here: then put "+transport.FileCAKey+" back", "%s without its key: a worker or an operator can use it, a coordinator cannot", ca.cert)
			ca.key = ""
		}
		d.pair(ca)
		d.pair(admin)
	}
	d.pair(worker)
}

// onlyTrusts reports whether this looks like the machine of a worker or an operator,
// who are given the CA's certificate alone.
func (d *doctor) onlyTrusts(ca pair) bool {
	given := fileExists(filepath.Join(d.cfg.TLSDir, transport.FileToken)) || fileExists(filepath.Join(d.cfg.TLSDir, transport.FileAdmin)) || fileExists(d.workerStore)
	return fileExists(ca.cert) && !fileExists(ca.key) && !fileExists(d.cfg.StoragePath) && given
}

// pair tells whether both halves are there, belong together and are valid now.
func (d *doctor) pair(p pair) {
	switch cert, key := fileExists(p.cert), p.key == "" || fileExists(p.key); {
	case !cert && (!key || p.key == ""):
		return
	case !cert:
		d.add(p.name, healthFail, p.half, "%s is there and %s is not", p.key, p.cert)
		return
	case !key:
		d.add(p.name, healthFail, p.half, "%s is there and %s is not", p.cert, p.key)
		return
	}
	infos, err := transport.Inspect(p.cert)
	if err != nil {
		d.add(p.name, healthFail, "put the file back from a copy; "+p.renew, "%s", oneLine(err))
		return
	}
	if err := fits(p); err != nil {
		d.add(p.name, healthFail, "put both back from one copy; else "+p.renew, "%s and %s do not make a pair: %v", p.cert, p.key, err)
		return
	}
	for _, c := range infos {
		d.validity(p, c)
	}
}

// fits reads both halves and compares them. The key is not kept.
func fits(p pair) error {
	if p.key == "" {
		return nil
	}
	cert, err := os.ReadFile(p.cert)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.key)
	if err != nil {
		return err
	}
	_, err = tls.X509KeyPair(cert, key)
	return err
}

// validity compares a certificate's life with now.
func (d *doctor) validity(p pair, c transport.CertInfo) {
	left := c.NotAfter.Sub(d.now)
	bad, when := healthFail, c.NotAfter.UTC().Format("2006-01-02 15:04 MST")
	if p.renewed {
		bad = healthNote
	}
	switch {
	case d.now.Before(c.NotBefore):
		d.add(p.name, healthFail, "set this machine's clock, or that of the one which issued it; else "+p.renew,
			"%s is valid only from %s on, and it is %s", p.cert, c.NotBefore.UTC().Format(time.RFC3339), d.now.UTC().Format(time.RFC3339))
	case left <= 0:
		d.add(p.name, bad, p.renew, "%s has expired, %s", p.cert, since(c.NotAfter, d.now))
	case left < soon && !p.renewed:
		d.add(p.name, healthWarn, p.renew, "%s expires in %d days, on %s", p.cert, int(left.Hours()/24), when)
	default:
		d.ok(p.name, "%s (%s) is valid until %s", p.cert, c.Subject, when)
	}
}

func since(at, now time.Time) string {
	return fmt.Sprintf("%s (on %s)", ago(now, at), at.UTC().Format("2006-01-02 15:04 MST"))
}
