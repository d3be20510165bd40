//go:build !unix

package cloudlocal

import (
	"errors"
	"math"
	"os"
)

// tryLock grants every lock: this system is not one the substrate runs on, the
// package compiles here for the operator's tool only.
func tryLock(*os.File) (bool, error) { return true, nil }

// freeBytes knows no limit here, so a free-space floor never refuses.
func freeBytes(*os.File) (int64, error) { return math.MaxInt64, nil }

// diskSpace cannot tell here.
func diskSpace(string) (total, free int64, err error) { return 0, 0, errors.ErrUnsupported }
