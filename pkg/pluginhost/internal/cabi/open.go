package cabi

// Options say which library is opened and how.
type Options struct {
	Path    string // absolute
	Symbol  string // the exported factory function
	SHA256  string // lower-case hex of the file's SHA-256, or empty for no pin
	CopyDir string // absolute; a private directory is made below it for an unpinned copy, and removed
}

// op is the operation that errors of this package name.
const op = "so"
