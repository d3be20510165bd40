package pluginhost

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/python"
)

// unpackSDK writes the Python SDK below dataDir, in a directory named by its
// content, and returns that directory. One that is there already is compared file
// by file and replaced when anything differs.
func unpackSDK(dataDir string) (string, error) {
	files := make(map[string][]byte)
	h := core.NewContentHasher()
	err := fs.WalkDir(python.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := python.Files.ReadFile(path)
		files[path] = b
		return errors.Join(err, writeAll(h, []byte(path), []byte{0}, b, []byte{0}))
	})
	if err != nil {
		return "", core.Wrap("unpack python sdk", core.CodeInternal, err)
	}
	dir := filepath.Join(dataDir, "python-sdk", h.ID().String()[:16])
	if sameFiles(dir, files) {
		return dir, nil
	}
	if err := replaceTree(dir, files); err != nil {
		return "", core.Wrap("unpack python sdk", core.CodeUnavailable, err)
	}
	return dir, nil
}

func writeAll(w interface{ Write([]byte) (int, error) }, parts ...[]byte) error {
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func sameFiles(dir string, files map[string][]byte) bool {
	for path, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, want) {
			return false
		}
	}
	return true
}

// replaceTree writes the files beside dir and renames them into place. Another
// process that does the same at this moment writes the same bytes.
func replaceTree(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for path, b := range files {
		full := filepath.Join(tmp, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(full, b, 0o600); err != nil {
			return err
		}
	}
	for try := 0; ; try++ {
		err := os.Rename(tmp, dir)
		if err == nil || sameFiles(dir, files) {
			return nil
		}
		if try == 3 {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
}
