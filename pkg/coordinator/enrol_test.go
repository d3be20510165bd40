package coordinator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func secret(s string) core.Secret { return core.NewSecret([]byte(s)) }

func enrol(t *testing.T, c *started, n int, key, token string) error {
	t.Helper()
	return c.Admit(t.Context(), core.Enrolment{ID: workerID(n), PublicKey: []byte(key), Token: secret(token), Addr: "127.0.0.1:9"})
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("refused: %v", err)
	}
}

func TestEnrolment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		token, err := c.NewToken(t.Context(), core.TokenSpec{})
		if err != nil {
			t.Fatal(err)
		}
		text := string(token.Reveal())
		wantCode(t, enrol(t, c, 1, "k1", ""), core.CodeUnauthenticated)
		wantCode(t, enrol(t, c, 1, "k1", "wrong"), core.CodeUnauthenticated)
		wantCode(t, enrol(t, c, 1, "k1", strings.Repeat("x", 300)), core.CodeUnauthenticated)
		wantCode(t, enrol(t, c, 1, "", text), core.CodeInvalidArgument)
		ok(t, enrol(t, c, 1, "k1", text))
		ok(t, enrol(t, c, 1, "k1", text))
		err = enrol(t, c, 1, "k2", text)
		wantCode(t, err, core.CodePermissionDenied)
		if !strings.Contains(err.Error(), "rollout workers forget "+workerID(1).String()) {
			t.Errorf("the text must say what to do: %v", err)
		}
		ok(t, c.ForgetWorker(t.Context(), workerID(1))) // it never registered, but its key is bound
		ok(t, enrol(t, c, 1, "k2", text))
		es, err := c.store.Scan(t.Context(), core.NewKey(core.NamespaceTokens), core.ScanOptions{})
		if err != nil || len(es) != 1 || strings.Contains(string(es[0].Value), text) {
			t.Errorf("the token itself must not be stored: %v %v", es, err)
		}
	})
}

func TestTokensRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shift, adjust := shiftedWall()
		c := start(t, newStore(), adjust)
		_, err := c.NewToken(t.Context(), core.TokenSpec{Uses: -1})
		wantCode(t, err, core.CodeInvalidArgument)
		twice, err := c.NewToken(t.Context(), core.TokenSpec{Uses: 2})
		ok(t, err)
		short, err := c.NewToken(t.Context(), core.TokenSpec{TTL: time.Minute})
		ok(t, err)
		text := string(twice.Reveal())
		ok(t, enrol(t, c, 1, "k1", text))
		ok(t, enrol(t, c, 1, "k1", text)) // the answer was lost: no further use
		ok(t, enrol(t, c, 2, "k2", text))
		wantCode(t, enrol(t, c, 3, "k3", text), core.CodeUnauthenticated)
		ok(t, enrol(t, c, 2, "k2", text))
		ok(t, enrol(t, c, 4, "k4", string(short.Reveal())))
		shift(time.Minute)
		err = enrol(t, c, 5, "k5", string(short.Reveal()))
		wantCode(t, err, core.CodeUnauthenticated)
		if !strings.Contains(err.Error(), "ran out") {
			t.Errorf("the text must say why: %v", err)
		}
		shift(48 * time.Hour)
		_, err = c.NewToken(t.Context(), core.TokenSpec{})
		ok(t, err)
		es, err := c.store.Scan(t.Context(), core.NewKey(core.NamespaceTokens), core.ScanOptions{})
		if err != nil || len(es) != 2 {
			t.Errorf("%d tokens are kept, %v", len(es), err)
		}
	})
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		token, err := c.NewToken(t.Context(), core.TokenSpec{})
		ok(t, err)
		text := string(token.Reveal())
		renew := func(key, held string) error {
			return c.Admit(t.Context(), core.Enrolment{ID: workerID(1), PublicKey: []byte(key), HeldKey: []byte(held), Renewal: true})
		}
		ok(t, renew("k0", "k0")) // its certificate was issued by hand
		ok(t, renew("k1", "k0"))
		ok(t, renew("k1", "k1"))
		wantCode(t, enrol(t, c, 1, "k0", text), core.CodePermissionDenied) // the renewal replaced the key
		ok(t, c.ForgetWorker(t.Context(), workerID(1)))
		ok(t, enrol(t, c, 1, "new machine", text))
		wantCode(t, renew("k1", "k1"), core.CodePermissionDenied) // the old one cannot take its id back
	})
}

func TestTheFilesTokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		ok(t, c.adoptToken(t.Context(), secret("first")))
		ok(t, c.adoptToken(t.Context(), secret("first")))
		ok(t, enrol(t, c, 1, "k1", "first"))
		ok(t, c.adoptToken(t.Context(), secret("second")))
		wantCode(t, enrol(t, c, 2, "k2", "first"), core.CodeUnauthenticated)
		ok(t, enrol(t, c, 2, "k2", "second"))
	})
}
