package coretest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// SecretSetup is what a secret store under test is to hold.
type SecretSetup struct {
	Values map[string]string // secrets that are there
	Allow  []string          // names that may be read, whether they are there or not
}

// SecretStoreOptions declares what an implementation offers beyond reading.
type SecretStoreOptions struct {
	Writable bool // Put stores
}

// SecretStoreCheck is one sentence of the contract of [core.SecretStore] and the
// check that holds an implementation to it. The check returns what it saw.
type SecretStoreCheck struct {
	Rule     string
	Check    func(ctx context.Context, open func(SecretSetup) (core.SecretStore, error)) error
	writable int // 1: writable stores only, -1: read-only ones only
}

// RunSecretStore runs every check. open makes a store that holds what it is told.
func RunSecretStore(t *testing.T, open func(t *testing.T, s SecretSetup) (core.SecretStore, error), opts SecretStoreOptions) {
	t.Helper()
	for _, c := range SecretStoreChecks() {
		if c.writable > 0 && !opts.Writable || c.writable < 0 && opts.Writable {
			continue
		}
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := c.Check(ctx, func(s SecretSetup) (core.SecretStore, error) { return open(t, s) })
			if err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// SecretStoreChecks returns the checks, for callers that run them one by one.
func SecretStoreChecks() []SecretStoreCheck {
	return []SecretStoreCheck{
		{Rule: "an allowed secret is handed out as it was set", Check: checkSecretGet},
		{Rule: "a name outside the allowlist is permission_denied, set or not", Check: checkSecretDenied},
		{Rule: "an allowed secret that is absent is not_found", Check: checkSecretAbsent},
		{Rule: "a malformed name is invalid_argument", Check: checkSecretName},
		{Rule: "a malformed value is invalid_argument", Check: checkSecretValue},
		{Rule: "errors name the secret and never a value", Check: checkSecretErrors},
		{Rule: "a secret shows its value to no formatter", Check: checkSecretRedacted},
		{Rule: "a read-only store says so when it is written to", Check: checkSecretReadOnly, writable: -1},
		{Rule: "what was put is got back", Check: checkSecretPut, writable: 1},
		{Rule: "a cancelled call ends with the context's code", Check: checkSecretCancel},
	}
}

const canary = "canary-5f2b9c"

type secretOpener = func(SecretSetup) (core.SecretStore, error)

func wantSecret(ctx context.Context, s core.SecretStore, name, want string) error {
	got, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	if string(got.Reveal()) != want {
		return fmt.Errorf("%s has %d bytes that are not what was set", name, got.Len())
	}
	return nil
}

func checkSecretGet(ctx context.Context, open secretOpener) error {
	values := map[string]string{"TOKEN": canary, "A_1": "x", "LONG": strings.Repeat("é", 1000), "SPACED": " a=b \t", "EQ": "=="}
	setup := SecretSetup{Values: values}
	for name := range values {
		setup.Allow = append(setup.Allow, name)
	}
	s, err := open(setup)
	if err != nil {
		return err
	}
	for name, want := range values {
		if err := first(wantSecret(ctx, s, name, want), wantSecret(ctx, s, name, want)); err != nil {
			return err
		}
	}
	return nil
}

func checkSecretDenied(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"TOKEN": canary, "TOKEN2": canary}, Allow: []string{"TOKEN2"}})
	if err != nil {
		return err
	}
	for _, name := range []string{"TOKEN", "NEVER_SET", "TOKEN2X"} {
		_, err := s.Get(ctx, name)
		if err := wantCode(err, core.CodePermissionDenied, name); err != nil {
			return err
		}
	}
	return wantSecret(ctx, s, "TOKEN2", canary)
}

func checkSecretAbsent(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"TOKEN": canary}, Allow: []string{"TOKEN", "ABSENT"}})
	if err != nil {
		return err
	}
	_, err = s.Get(ctx, "ABSENT")
	return wantCode(err, core.CodeNotFound, "an absent secret")
}

func checkSecretName(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"TOKEN": canary}, Allow: []string{"TOKEN"}})
	if err != nil {
		return err
	}
	for _, name := range []string{"", "token", "TO KEN", "../TOKEN", "TOKEN\x00", "TOKEN=", "Ü", strings.Repeat("A", 129)} {
		_, err := s.Get(ctx, name)
		if err := wantCode(err, core.CodeInvalidArgument, fmt.Sprintf("%q", name)); err != nil {
			return err
		}
	}
	return nil
}

func checkSecretValue(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"BINARY": canary + "\xff\xfe"}, Allow: []string{"BINARY"}})
	if err != nil {
		return err
	}
	_, err = s.Get(ctx, "BINARY")
	if err == nil || !strings.Contains(err.Error(), "BINARY") || strings.Contains(err.Error(), canary) {
		return fmt.Errorf("the error %v must name the secret and not its value", err)
	}
	return wantCode(err, core.CodeInvalidArgument, "a value that is no text")
}

func checkSecretErrors(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"DENIED": canary, "THERE": canary}, Allow: []string{"THERE", "ABSENT"}})
	if err != nil {
		return err
	}
	for _, name := range []string{"DENIED", "ABSENT"} {
		_, err := s.Get(ctx, name)
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), canary) {
			return fmt.Errorf("the error %v must name %s and no value", err, name)
		}
	}
	return nil
}

func checkSecretRedacted(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"TOKEN": canary}, Allow: []string{"TOKEN"}})
	if err != nil {
		return err
	}
	secret, err := s.Get(ctx, "TOKEN")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %q %x %d", secret, secret, secret, secret, secret, secret, secret)
	fmt.Fprintf(&out, "%v %+v %#v", struct{ S core.Secret }{secret}, []core.Secret{secret}, map[string]core.Secret{"a": secret})
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "secret", secret, "group", slog.GroupValue(slog.Any("s", secret)))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "secret", secret, "any", []core.Secret{secret})
	if err := json.NewEncoder(&out).Encode(map[string]any{"secret": secret}); err != nil {
		return err
	}
	if strings.Contains(out.String(), canary) || strings.Contains(out.String(), fmt.Sprintf("%x", canary)) {
		return fmt.Errorf("the value was printed: %s", out.String())
	}
	return nil
}

func checkSecretReadOnly(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Allow: []string{"TOKEN"}})
	if err != nil {
		return err
	}
	err = s.Put(ctx, "TOKEN", core.NewSecret([]byte(canary)))
	if err := wantCode(err, core.CodeUnsupported, "put"); err != nil {
		return err
	}
	if !strings.Contains(err.Error(), "read-only") || strings.Contains(err.Error(), canary) {
		return fmt.Errorf("the error %q must say read-only and no value", err)
	}
	return nil
}

func checkSecretPut(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Allow: []string{"TOKEN"}})
	if err != nil {
		return err
	}
	for _, value := range []string{"one", canary} {
		if err := first(s.Put(ctx, "TOKEN", core.NewSecret([]byte(value))), wantSecret(ctx, s, "TOKEN", value)); err != nil {
			return err
		}
	}
	return nil
}

func checkSecretCancel(ctx context.Context, open secretOpener) error {
	s, err := open(SecretSetup{Values: map[string]string{"TOKEN": canary}, Allow: []string{"TOKEN"}})
	if err != nil {
		return err
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Get(done, "TOKEN")
	return wantCode(err, core.CodeCanceled, "get")
}
