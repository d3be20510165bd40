//go:build !linux

package cloudlocal

import "os"

func (d *diskFS) openBeneath(name string) (*os.File, error) { return d.openPlain(name) }

func (d *diskFS) createBeneath(name string) (*os.File, error) { return d.createPlain(name) }

func (d *diskFS) openDirBeneath(name string) (*os.File, error) { return d.openDirPlain(name) }

func (d *diskFS) Rename(from, to string) error { return d.root.Rename(from, to) }

func (d *diskFS) ReadInto(name string, buf []byte) (int, error) { return d.readPlain(name, buf) }

func (d *diskFS) Stat(name string) (fileInfo, error) { return d.statPlain(name) }

// SyncAll is not offered here: the system's call promises too little.
func (d *diskFS) SyncAll() bool { return false }

// startSync does nothing where the system has no call for it: the sync that
// follows writes everything.
func startSync(*os.File, int64, int64) {}
