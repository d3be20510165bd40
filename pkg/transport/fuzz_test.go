package transport

import (
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// FuzzCallerURI: what is accepted as a name has exactly one spelling.
func FuzzCallerURI(f *testing.F) {
	run, id := core.NewRunID(), core.NewWorkerID()
	f.Add(spiffeURI(run, RoleWorker, id.String()).String())
	f.Add(spiffeURI(run, RoleAdmin, "ops-2").String())
	f.Add("spiffe://rollout/" + run.String() + "/worker/" + id.String() + "/x")
	f.Add("spiffe://rollout//admin/")
	f.Add("spiffe://other/" + run.String() + "/admin/a")
	f.Add("spiffe://rollout/" + run.String() + "/admin/%2e%2e")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseURI(text)
		if err != nil {
			if !core.IsCode(err, core.CodeUnauthenticated) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if c.Role != RoleWorker && c.Role != RoleAdmin {
			t.Fatalf("%q names role %q", text, c.Role)
		}
		if again := spiffeURI(c.Run, c.Role, c.Name).String(); again != text {
			t.Fatalf("%q and %q name the same caller", text, again)
		}
	})
}

// FuzzCSR: a damaged or foreign request is refused without a panic, and an accepted
// one carries a P-256 key.
func FuzzCSR(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := newCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add(csr[:len(csr)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := readCSR(der)
		if err != nil {
			if !core.IsCode(err, core.CodeInvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		if _, err := x509.MarshalPKIXPublicKey(pub); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzBeat: every message that decodes is a proper beat or an invalid argument, and a
// proper one survives the way back.
func FuzzBeat(f *testing.F) {
	id := core.NewWorkerID()
	var m transportv1.BeatRequest
	full := core.Heartbeat{
		Worker: core.WorkerRef{ID: id, Epoch: 3}, Seq: 1, SentAt: time.Unix(3, 4).UTC(), State: core.StateRunning, ControlSeq: 5, WorkOpen: true,
		WorkSeq: 6, SlotsBusy: 7, Plugins: []core.LoadedPlugin{{Name: "a", Version: "1", Digest: "ff", Mode: core.ModeSidecar}},
	}
	beatTo(&m, full, id.String())
	b, err := proto.Marshal(&m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m transportv1.BeatRequest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		h, err := beatFrom(&m, id)
		if err != nil {
			if !core.IsCode(err, core.CodeInvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		if !h.State.Valid() || h.SlotsBusy < 0 {
			t.Fatalf("an impossible beat: %+v", h)
		}
		var back transportv1.BeatRequest
		beatTo(&back, h, id.String())
		again, err := beatFrom(&back, id)
		if err != nil || again.Seq != h.Seq || !again.SentAt.Equal(h.SentAt) || (again.Plugins == nil) != (h.Plugins == nil) {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

// FuzzPEM: certificate and key files are refused without a panic.
func FuzzPEM(f *testing.F) {
	cert, key, err := newCA(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encodeCert(cert.Raw))
	f.Add(keyPEM)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if certs, err := parseCerts("x", b); err != nil && !core.IsCode(err, core.CodeFailedPrecondition) || err == nil && len(certs) == 0 {
			t.Fatal(err)
		}
		if _, err := parseKey("x", b); err != nil && !core.IsCode(err, core.CodeFailedPrecondition) {
			t.Fatal(err)
		}
	})
}
