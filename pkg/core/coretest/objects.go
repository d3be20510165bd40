package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// ObjectStoreFixture is one fresh, empty object store under test.
type ObjectStoreFixture struct {
	Store core.ObjectStore
	// Reopen closes the store and opens it again, as a restart does. It replaces
	// Store.
	Reopen func() error
	// Damage changes one stored byte of an object behind the store's back. It may
	// be nil where nobody can.
	Damage func(core.ContentID) error
}

// ObjectStoreOptions declares what an implementation does not offer.
type ObjectStoreOptions struct {
	NoReopen bool // the store does not outlive its process
}

// ObjectStoreCheck is one sentence of the contract of [core.ObjectStore] and the
// check that holds an implementation to it. The check returns what it saw.
type ObjectStoreCheck struct {
	Rule   string
	Check  func(ctx context.Context, f *ObjectStoreFixture) error
	reopen bool
	damage bool
}

// RunObjectStore runs every check against a fresh fixture of its own. open
// registers whatever clean-up it needs with t.
func RunObjectStore(t *testing.T, open func(t *testing.T) *ObjectStoreFixture, opts ObjectStoreOptions) {
	t.Helper()
	for _, c := range ObjectStoreChecks() {
		if c.reopen && opts.NoReopen {
			continue
		}
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			f := open(t)
			if c.damage && f.Damage == nil {
				return
			}
			if err := c.Check(ctx, f); err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// ObjectStoreChecks returns the checks, for callers that run them one by one.
func ObjectStoreChecks() []ObjectStoreCheck {
	return []ObjectStoreCheck{
		{Rule: "what was put is got back, whatever its length", Check: checkObjectRoundTrip},
		{Rule: "the id is the hash of the bytes", Check: checkObjectID},
		{Rule: "objects survive a restart", Check: checkObjectReopen, reopen: true},
		{Rule: "equal bytes are one object with the first writer's description", Check: checkObjectEqual},
		{Rule: "an error of the reader is returned under its code and nothing is stored", Check: checkObjectReaderError},
		{Rule: "bytes other than the expected ones are corrupt and not stored", Check: checkObjectExpect},
		{Rule: "a size hint that is wrong changes nothing", Check: checkObjectSizeHint},
		{Rule: "a content type that is no printable ASCII or too long is refused", Check: checkObjectContentType},
		{Rule: "put many returns one info for each blob in order", Check: checkObjectPutMany},
		{Rule: "put many stores equal blobs once", Check: checkObjectPutManyEqual},
		{Rule: "an absent object is not found", Check: checkObjectAbsent},
		{Rule: "a range is cut at the object's end", Check: checkObjectRange},
		{Rule: "exists follows put and delete", Check: checkObjectExists},
		{Rule: "deleting what is not there is no error", Check: checkObjectDeleteAbsent},
		{Rule: "a deleted object can be put again", Check: checkObjectPutAgain},
		{Rule: "list is ascending and resumes behind an id", Check: checkObjectList},
		{Rule: "a list can be broken off and the store used from within it", Check: checkObjectListBreak},
		{Rule: "verify passes whole objects and names missing ones", Check: checkObjectVerify},
		{Rule: "a damaged object is read as corrupt in place of its end", Check: checkObjectDamagedRead, damage: true},
		{Rule: "verify names damaged objects and moves them only when told", Check: checkObjectDamagedVerify, damage: true},
		{Rule: "a put of damaged bytes after quarantine stores them again", Check: checkObjectQuarantinePut, damage: true},
		{Rule: "a collection removes what is not live and keeps the rest", Check: checkObjectGC},
		{Rule: "a collection asks nothing about objects younger than grace", Check: checkObjectGCGrace},
		{Rule: "an error of live stops the collection", Check: checkObjectGCError},
		{Rule: "a put that meets a collection leaves its object there", Check: checkObjectGCRace},
		{Rule: "many writers of equal bytes all succeed and one object results", Check: checkObjectRace},
		{Rule: "many writers and readers of many objects never see a torn one", Check: checkObjectConcurrent},
		{Rule: "a cancelled put ends with the context's code and stores nothing", Check: checkObjectCancel},
		{Rule: "after close calls are closed, and close may be repeated", Check: checkObjectClose},
	}
}

// sample returns n bytes that differ for each seed.
func sample(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func putReader(ctx context.Context, s core.ObjectStore, b []byte, contentType string) (core.ObjectInfo, error) {
	return s.Put(ctx, bytes.NewReader(b), core.PutOptions{ContentType: contentType, Size: int64(len(b))})
}

func wantBytes(ctx context.Context, s core.ObjectStore, id core.ContentID, want []byte) error {
	r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("object %s: got %d bytes that differ from the %d put", id, len(got), len(want))
	}
	return nil
}

func listIDs(ctx context.Context, s core.ObjectStore, after core.ContentID) ([]core.ContentID, error) {
	var ids []core.ContentID
	for info, err := range s.List(ctx, after) {
		if err != nil {
			return ids, err
		}
		ids = append(ids, info.ID)
	}
	return ids, nil
}

func wantEmpty(ctx context.Context, s core.ObjectStore) error {
	ids, err := listIDs(ctx, s, core.ContentID{})
	if err == nil && len(ids) > 0 {
		err = fmt.Errorf("%d objects are there, want none", len(ids))
	}
	return err
}
