package cloudlocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// The directory of an object store, all files 0600 and all directories 0700:
//
//	ab/cd/abcd...              the bytes, named by their BLAKE3-256 in hexadecimal
//	ab/cd/abcd....meta.json    what is known of them, see objectMeta
//	tmp/<session>/<n>          files on their way, below directories of an open
//	                           store, which holds the lock of each
//	quarantine/<name>-<ms>     damaged objects that Verify moved out of reach
//
// An object exists when its bytes have their name. The meta takes its name first,
// so that an object of ours is never seen without it; one that a store of another
// make streamed here may have none.
//
// Bytes are synced before they get their name, and the directory is synced before
// a put returns. Whoever gives or takes a name below ab/cd holds the lock of that
// directory, which excludes other processes too.
const (
	tmpDir        = "tmp"
	quarantineDir = "quarantine"
	metaSuffix    = ".meta.json"
	foreignTmp    = ".tmp"    // left in a shard by a store that wrote in place
	foreignDir    = "pending" // where such a store kept its streams
)

// shardOf returns the directory of an object.
func shardOf(id core.ContentID) string {
	h := id.String()
	return h[:2] + "/" + h[2:4]
}

// blobName returns the name of an object's bytes.
func blobName(id core.ContentID) string {
	h := id.String()
	return h[:2] + "/" + h[2:4] + "/" + h
}

// metaName returns the name of what is known of an object.
func metaName(id core.ContentID) string { return blobName(id) + metaSuffix }

// shardNumber numbers the two-level directories from 0 to 65,535.
func shardNumber(id core.ContentID) int { return int(id[0])<<8 | int(id[1]) }

// isShard reports whether a directory entry is one level of shards.
func isShard(e fs.DirEntry) bool {
	n := e.Name()
	return e.IsDir() && len(n) == 2 && isHex(n[0]) && isHex(n[1])
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// walk calls visit for each object behind after, ascending, until it returns
// false. The zero id stands before the first.
func (o *Objects) walk(ctx context.Context, after core.ContentID, visit func(core.ContentID) (more bool, err error)) error {
	return o.walkShards(ctx, after, func(shard string, entries []fs.DirEntry) (bool, error) {
		for _, e := range entries {
			id, err := core.ParseContentID(e.Name())
			if err != nil || shardOf(id) != shard || compareIDs(id, after) <= 0 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if more, err := visit(id); err != nil || !more {
				return false, err
			}
		}
		return true, nil
	})
}

func compareIDs(a, b core.ContentID) int { return strings.Compare(string(a[:]), string(b[:])) }

// walkShards calls visit with the entries of each shard that can hold objects
// behind after.
func (o *Objects) walkShards(ctx context.Context, after core.ContentID, visit func(string, []fs.DirEntry) (bool, error)) error {
	first, second, _ := strings.Cut(shardOf(after), "/")
	outer, err := o.readDir(ctx, ".")
	if err != nil {
		return err
	}
	for _, a := range outer {
		if !isShard(a) || a.Name() < first {
			continue
		}
		inner, err := o.readDir(ctx, a.Name())
		if err != nil {
			return err
		}
		for _, b := range inner {
			if !isShard(b) || a.Name() == first && b.Name() < second {
				continue
			}
			shard := a.Name() + "/" + b.Name()
			entries, err := o.readDir(ctx, shard)
			if err != nil {
				return err
			}
			if more, err := visit(shard, entries); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// readDir lists a directory; one that was removed meanwhile is empty.
func (o *Objects) readDir(ctx context.Context, name string) ([]fs.DirEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := o.fs.ReadDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

func notFound(op string, id core.ContentID) error {
	return core.Errorf(op, core.CodeNotFound, "object %s is not in the store", id)
}

func corrupt(op string, id core.ContentID, format string, args ...any) error {
	return core.Errorf(op, core.CodeCorrupt, "object %s is damaged: %s", id, fmt.Sprintf(format, args...))
}
