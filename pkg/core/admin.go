package core

import (
	"context"
	"io"
	"time"
)

// WorkerRow is a worker as the coordinator knows it.
type WorkerRow struct {
	ID           WorkerID    `json:"worker_id"`
	State        WorkerState `json:"state"`
	Liveness     Liveness    `json:"liveness"`
	Epoch        uint64      `json:"epoch"`
	Addr         string      `json:"addr"`
	Version      string      `json:"version"`
	RegisteredAt time.Time   `json:"registered_at"` // of this epoch
	LastSeenAt   time.Time   `json:"last_seen_at"`  // receipt of the last beat, the coordinator's wall clock
	BeatSeq      uint64      `json:"beat_seq"`
	Slots        int         `json:"slots"`
	SlotsBusy    int         `json:"slots_busy"`
	SkewMS       int64       `json:"skew_ms"` // the worker's wall clock minus ours at the last beat, transit included
	CertSerial   string      `json:"cert_serial"`
	Inventory    Inventory   `json:"inventory"`
	// Plugins the worker has loaded, as it last said.
	Plugins []LoadedPlugin `json:"plugins"`
}

// Status is the state of a coordinator in one look.
type Status struct {
	Run        RunID            `json:"run_id"`
	Epoch      uint64           `json:"epoch"`
	Version    string           `json:"version"`
	Addr       string           `json:"addr"`
	Protocol   string           `json:"protocol"` // "h2" or "quic"
	StartedAt  time.Time        `json:"started_at"`
	Timing     Timing           `json:"timing"`
	Workers    map[Liveness]int `json:"workers"`     // count by verdict
	Revision   uint64           `json:"revision"`    // of the store
	StoreBytes int64            `json:"store_bytes"` // size of the store file; 0: not a file
	// MassFailure tells that requeue is held back because too many workers failed at once.
	MassFailure bool `json:"mass_failure"`
}

// TokenSpec narrows a join token.
type TokenSpec struct {
	TTL  time.Duration // 0: no end
	Uses int           // enrolments it allows; 0: any number
}

// StoredEvent is a domain event with its place in the coordinator's record.
type StoredEvent struct {
	Seq   uint64 `json:"seq"`
	Event Event  `json:"event"`
}

// Admin is what an operator may ask of a running coordinator. The caller's admin
// identity has been checked already.
type Admin interface {
	// Status describes the coordinator.
	Status(ctx context.Context) (Status, error)
	// Workers describes every worker in the book, sorted by id.
	Workers(ctx context.Context) ([]WorkerRow, error)
	// ForgetWorker removes a worker's row and the key bound to its id, so that the
	// id may enrol with another key. [CodeFailedPrecondition] while it is alive or
	// suspect, [CodeNotFound] when unknown.
	ForgetWorker(ctx context.Context, id WorkerID) error
	// SendCommand stores a command for a worker and returns its number. Seq and
	// IssuedAt of cmd are ignored. [CodeNotFound] when the worker is unknown,
	// [CodeFailedPrecondition] when it is failed or deregistered.
	SendCommand(ctx context.Context, id WorkerID, cmd Command) (seq uint64, err error)
	// AwaitCommand waits until the worker has acknowledged a command and returns
	// its answer; [CodeUnavailable] when the worker fails first.
	AwaitCommand(ctx context.Context, id WorkerID, seq uint64) (CommandResult, error)
	// Events sends the recorded domain events behind after, in order; with follow
	// it goes on until ctx ends. [CodeCompacted] when after is too old; 0 never is.
	Events(ctx context.Context, after uint64, follow bool, send func(StoredEvent) error) error
	// NewToken makes a join token. Only its hash is kept.
	NewToken(ctx context.Context, spec TokenSpec) (Secret, error)
	// Backup writes a consistent copy of the coordinator's store to w.
	Backup(ctx context.Context, w io.Writer) (int64, error)
}
