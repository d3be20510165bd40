package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// Limits of an enrolment.
const (
	maxToken     = 256     // bytes
	maxPublicKey = 4 << 10 // bytes
)

// tokenName is the row of a token: the first half of its hash's hex digits tells
// nothing that helps to guess it.
func tokenName(hash []byte) string { return hex.EncodeToString(hash[:8]) }

func tokenKey(name string) core.Key { return core.NewKey(core.NamespaceTokens, name) }

// Admit implements [core.Enroller].
func (c *Coordinator) Admit(ctx context.Context, e core.Enrolment) error {
	const op = "enrol"
	switch {
	case e.ID == core.WorkerID{}:
		return core.Errorf(op, core.CodeInvalidArgument, "the request names no worker")
	case len(e.PublicKey) == 0 || len(e.PublicKey) > maxPublicKey:
		return core.Errorf(op, core.CodeInvalidArgument, "a public key of %d bytes is none", len(e.PublicKey))
	case !e.Renewal && (e.Token.Len() == 0 || e.Token.Len() > maxToken):
		return core.WithOp(op, errWrongToken())
	}
	// The bytes are the caller's and the writer may still hold them when ctx ends.
	e.PublicKey, e.HeldKey = bytes.Clone(e.PublicKey), bytes.Clone(e.HeldKey)
	prepare := func(ctx context.Context, b *batch) error { return c.prepareRenewal(ctx, b, e) }
	if !e.Renewal {
		hash := sha256.Sum256(e.Token.Reveal())
		prepare = func(ctx context.Context, b *batch) error { return c.prepareEnrolment(ctx, b, e, hash[:]) }
	}
	return core.WithOp(op, c.writer.do(ctx, prepare, nil))
}

func errWrongToken() error {
	return core.Errorf("", core.CodeUnauthenticated, "the join token is wrong: copy join.token of the coordinator's TLS directory, or make another with `rollout token new`")
}

func (c *Coordinator) prepareEnrolment(ctx context.Context, b *batch, e core.Enrolment, hash []byte) error {
	name := tokenName(hash)
	token, err := c.checkToken(ctx, b, name, hash)
	if err != nil {
		return err
	}
	bound, err := b.bound(ctx, e.ID)
	switch {
	case err != nil:
		return err
	case bound == nil:
	case !bytes.Equal(bound.Key, e.PublicKey):
		return boundElsewhere(e.ID)
	case bound.Token == name:
		return nil // the same request again: its answer may have been lost
	}
	if token.Uses > 0 {
		if token.Used >= token.Uses {
			return core.Errorf("", core.CodeUnauthenticated, "the join token is used up, make another with `rollout token new`")
		}
		token.Used++
		if err := b.put(tokenKey(name), token); err != nil {
			return err
		}
	}
	return b.put(boundKey(e.ID), keyRow{Key: e.PublicKey, Token: name, BoundAt: c.wall().UTC()})
}

// checkToken reads a token's row. One that does not exist costs the same
// comparison as one that does.
func (c *Coordinator) checkToken(ctx context.Context, b *batch, name string, hash []byte) (tokenRow, error) {
	row := tokenRow{Hash: make([]byte, sha256.Size)}
	entry, err := b.get(ctx, tokenKey(name))
	if err != nil {
		return row, err
	}
	if entry.Exists() {
		if err := decodeRow(entry, &row); err != nil {
			return row, err
		}
	}
	if subtle.ConstantTimeCompare(row.Hash, hash) != 1 {
		return row, errWrongToken()
	}
	if !row.ExpiresAt.IsZero() && !c.wall().Before(row.ExpiresAt) {
		return row, core.Errorf("", core.CodeUnauthenticated, "the join token ran out at %s (is a clock off?), make another with `rollout token new`", row.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return row, nil
}

func (c *Coordinator) prepareRenewal(ctx context.Context, b *batch, e core.Enrolment) error {
	bound, err := b.bound(ctx, e.ID)
	switch {
	case err != nil:
		return err
	case bound == nil:
		bound = &keyRow{} // its certificate was issued by hand, or the id was forgotten
	case len(e.HeldKey) > 0 && !bytes.Equal(bound.Key, e.HeldKey):
		return boundElsewhere(e.ID)
	case bytes.Equal(bound.Key, e.PublicKey):
		return nil
	}
	return b.put(boundKey(e.ID), keyRow{Key: e.PublicKey, Token: bound.Token, BoundAt: c.wall().UTC()})
}

func boundElsewhere(id core.WorkerID) error {
	return core.Errorf("", core.CodePermissionDenied, "worker id %s is bound to another key: if that machine is gone, run `rollout workers forget %s` first", id, id)
}

// bound reads the key that an id is bound to; nil: none.
func (b *batch) bound(ctx context.Context, id core.WorkerID) (*keyRow, error) {
	e, err := b.get(ctx, boundKey(id))
	if err != nil || !e.Exists() {
		return nil, err
	}
	row := &keyRow{}
	return row, decodeRow(e, row)
}

// NewToken implements [core.Admin].
func (c *Coordinator) NewToken(ctx context.Context, spec core.TokenSpec) (core.Secret, error) {
	const op = "new token"
	if spec.TTL < 0 || spec.Uses < 0 {
		return core.Secret{}, core.Errorf(op, core.CodeInvalidArgument, "a token's life and uses cannot be negative")
	}
	token := transport.NewToken()
	row := tokenRow{CreatedAt: c.wall().UTC(), Uses: spec.Uses}
	if spec.TTL > 0 {
		row.ExpiresAt = row.CreatedAt.Add(spec.TTL)
	}
	err := c.writer.do(ctx, func(ctx context.Context, b *batch) error {
		if err := c.dropExpired(ctx, b); err != nil {
			return err
		}
		return putToken(b, token, row)
	}, nil)
	if err != nil {
		return core.Secret{}, core.WithOp(op, err)
	}
	return token, nil
}

func putToken(b *batch, token core.Secret, row tokenRow) error {
	hash := sha256.Sum256(token.Reveal())
	row.Hash = hash[:]
	return b.put(tokenKey(tokenName(hash[:])), row)
}

// dropExpired stages the removal of tokens that ran out a day ago or more; until
// then their holders are told so.
func (c *Coordinator) dropExpired(ctx context.Context, b *batch) error {
	now := c.wall()
	return c.eachToken(ctx, b, func(key core.Key, row tokenRow) {
		if !row.ExpiresAt.IsZero() && now.After(row.ExpiresAt.Add(24*time.Hour)) {
			b.del(key)
		}
	})
}

func (c *Coordinator) eachToken(ctx context.Context, b *batch, visit func(core.Key, tokenRow)) error {
	es, err := b.tx.Scan(ctx, core.NewKey(core.NamespaceTokens), core.ScanOptions{})
	if err != nil {
		return err
	}
	for _, e := range es {
		var row tokenRow
		if err := decodeRow(e, &row); err != nil {
			return err
		}
		visit(e.Key, row)
	}
	return nil
}

// adoptToken makes the token of the join.token file valid and every earlier one of
// that file invalid, so that replacing the file replaces the token.
func (c *Coordinator) adoptToken(ctx context.Context, token core.Secret) error {
	hash := sha256.Sum256(token.Reveal())
	own := tokenKey(tokenName(hash[:]))
	err := c.writer.do(ctx, func(ctx context.Context, b *batch) error {
		known := false
		err := c.eachToken(ctx, b, func(key core.Key, row tokenRow) {
			switch {
			case key.Equal(own):
				known = true
			case row.File:
				b.del(key)
			}
		})
		if err != nil || known {
			return err
		}
		return putToken(b, token, tokenRow{CreatedAt: c.wall().UTC(), File: true})
	}, nil)
	return core.WithOp("adopt join token", err)
}
