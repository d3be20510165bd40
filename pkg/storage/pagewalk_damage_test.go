package storage

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// resum makes the checksums of both meta pages right again, so that damage
// behind them is reached.
func resum(b []byte, pageSize int) {
	for at := 0; at <= pageSize && at+pageHeaderLen+metaLen <= len(b); at += pageSize {
		m := b[at+pageHeaderLen:]
		h := fnv.New64a()
		h.Write(m[:metaSumAt])
		binary.NativeEndian.PutUint64(m[metaSumAt:], h.Sum64())
	}
}

func TestPageWalkNamesThePage(t *testing.T) {
	orig := boltFile(t, 300)
	st, err := readMetas(bytes.NewReader(orig), int64(len(orig)))
	if err != nil {
		t.Fatal(err)
	}
	ne := binary.NativeEndian
	m := st.pages[st.active]
	root, free := int(m.root)*1024, int(m.freelist)*1024
	meta := st.active*1024 + pageHeaderLen
	// The root bucket's tree has one leaf with three buckets; the first one's root is a branch.
	firstBucket := root + pageHeaderLen + int(ne.Uint32(orig[root+pageHeaderLen+4:])) + len("bucket0")
	branch := int(ne.Uint64(orig[firstBucket:])) * 1024
	if decodeHeader(orig[branch:]).flags != flagBranch {
		t.Fatal("the test file has no branch where the test expects one")
	}
	tests := []struct {
		name   string
		damage func(b []byte)
		want   string
	}{
		{"page id", func(b []byte) { b[branch]++ }, "calls itself page"},
		{"page kind", func(b []byte) { b[branch+8] = flagMeta }, "neither a branch nor a leaf"},
		{"branch cycle", func(b []byte) { ne.PutUint64(b[branch+pageHeaderLen+8:], uint64(branch/1024)) }, "reached twice"},
		{"child is a meta page", func(b []byte) { ne.PutUint64(b[branch+pageHeaderLen+8:], 1) }, "outside"},
		{"child far away", func(b []byte) { ne.PutUint64(b[branch+pageHeaderLen+8:], 1<<60) }, "outside"},
		{"count", func(b []byte) { ne.PutUint16(b[branch+10:], 60000) }, "do not fit"},
		{"no children", func(b []byte) { ne.PutUint16(b[branch+10:], 0) }, "without children"},
		{"overflow", func(b []byte) { ne.PutUint32(b[branch+12:], 1<<30) }, "outside"},
		{"position", func(b []byte) { b[branch+pageHeaderLen]++ }, "points to byte"},
		{"key size", func(b []byte) { ne.PutUint32(b[branch+pageHeaderLen+4:], 1<<31) }, "has a key of"},
		{"key order", func(b []byte) { b[branch+pageHeaderLen+int(ne.Uint32(b[branch+pageHeaderLen:]))] = 0xFF }, "above"},
		{"bucket root", func(b []byte) { ne.PutUint64(b[firstBucket:], m.root) }, "reached twice"},
		{"element flags", func(b []byte) { b[root+pageHeaderLen] = 2 }, "flags 0x2"},
		{"free list kind", func(b []byte) { b[free+8] = flagLeaf }, "not a free list"},
		{"free list count", func(b []byte) { ne.PutUint16(b[free+10:], 0xFFFE) }, "do not fit"},
		{"free list id in use", func(b []byte) { ne.PutUint64(b[free+pageHeaderLen:], uint64(branch/1024)) }, "listed as free"},
		{"free list shorter", func(b []byte) { ne.PutUint16(b[free+10:], ne.Uint16(b[free+10:])-1) }, "neither used nor free"},
		{"root outside", func(b []byte) { ne.PutUint64(b[meta+16:], 1<<40); resum(b, 1024) }, "root page"},
		{"free list outside", func(b []byte) { ne.PutUint64(b[meta+32:], 1<<40); resum(b, 1024) }, "free list page"},
		{"pages beyond the file", func(b []byte) { ne.PutUint64(b[meta+40:], 1<<40); resum(b, 1024) }, "pages in use"},
		{"meta checksum", func(b []byte) { b[meta+20]++ }, "checksum"},
		{"meta version", func(b []byte) { b[meta+4] = 9 }, "format version 9"},
		{"meta page size", func(b []byte) { ne.PutUint32(b[meta+8:], 3000); resum(b, 1024) }, "page size"},
		{"meta header", func(b []byte) { b[meta-pageHeaderLen]++ }, "header says"},
		{"meta copied over the other", func(b []byte) {
			copy(b[(1-st.active)*1024:][:1024], b[st.active*1024:][:1024])
		}, "header says"},
		{"older meta of another time", func(b []byte) {
			other := (1-st.active)*1024 + pageHeaderLen
			ne.PutUint64(b[other+48:], m.txid-3)
			resum(b, 1024)
		}, "not the one before"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(orig)
			tt.damage(b)
			_, err := walkBytes(b)
			if !core.IsCode(err, core.CodeCorrupt) {
				t.Fatalf("got %v, want corrupt", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q does not say %q", err, tt.want)
			}
		})
	}
}

func TestReadMetasJudgesEachPage(t *testing.T) {
	orig := boltFile(t, 5)
	sound, err := readMetas(bytes.NewReader(orig), int64(len(orig)))
	if err != nil || sound.damaged() != nil {
		t.Fatalf("a sound file: %v, %v", err, sound.damaged())
	}
	for page := range 2 {
		b := bytes.Clone(orig)
		clear(b[page*1024 : (page+1)*1024])
		st, err := readMetas(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("meta page %d zeroed: %v", page, err)
		}
		if st.active != 1-page || st.pages[page].err == nil || st.pages[1-page].err != nil || st.fatal != nil {
			t.Errorf("meta page %d zeroed: %+v", page, st)
		}
	}
	for name, b := range map[string][]byte{
		"text":        bytes.Repeat([]byte("not a database\n"), 1000),
		"short":       []byte("x"),
		"empty":       nil,
		"zeros":       make([]byte, 1<<16),
		"both zeroed": append(make([]byte, 2048), orig[2048:]...),
	} {
		st, err := readMetas(bytes.NewReader(b), int64(len(b)))
		if !core.IsCode(err, core.CodeCorrupt) || st.active != -1 || !st.foreign() {
			t.Errorf("%s: active %d, foreign %v, %v", name, st.active, st.foreign(), err)
		}
	}
}
