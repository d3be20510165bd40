package core

import (
	"context"
	"time"
)

// WorkerState is what a worker says of itself.
type WorkerState string

// The states, in the order of a life. Only the last two end it.
const (
	StateInit     WorkerState = "init"     // registered, loading its plugins
	StateReady    WorkerState = "ready"    // takes work, has none
	StateRunning  WorkerState = "running"  // has work
	StateDraining WorkerState = "draining" // finishes work, takes none
	StateDone     WorkerState = "done"     // left cleanly
	StateFailed   WorkerState = "failed"   // left because of an error of its own
)

// Valid reports whether s is one of the states.
func (s WorkerState) Valid() bool {
	switch s {
	case StateInit, StateReady, StateRunning, StateDraining, StateDone, StateFailed:
		return true
	}
	return false
}

// CanBecome reports whether a worker may go from s to next within one epoch. A
// state may always be repeated.
func (s WorkerState) CanBecome(next WorkerState) bool {
	if s == next {
		return s.Valid()
	}
	switch s {
	case StateInit:
		return next == StateReady || next == StateDraining || next == StateDone || next == StateFailed
	case StateReady, StateRunning:
		return next == StateReady || next == StateRunning || next == StateDraining || next == StateDone || next == StateFailed
	case StateDraining:
		return next == StateDone || next == StateFailed
	}
	return false
}

// Liveness is the coordinator's word on a worker.
type Liveness string

// The verdicts.
const (
	LivenessAlive        Liveness = "alive"
	LivenessSuspect      Liveness = "suspect" // connection broken or one beat missed
	LivenessFailed       Liveness = "failed"
	LivenessDeregistered Liveness = "deregistered"
)

// WorkerRef names one life of a worker. Every message of a worker carries it,
// and what carries an older epoch than the registered one is [CodeFenced].
type WorkerRef struct {
	ID    WorkerID
	Epoch uint64
}

// Registration is what a worker tells the coordinator when it begins an epoch.
type Registration struct {
	ID            WorkerID
	PrevEpoch     uint64 // the epoch it last held, 0 on its first start
	Addr          string // where it dials from, as the coordinator sees it; set by the server
	Version       string // of the worker's binary
	ProtocolMin   uint32 // range of protocol versions the worker speaks
	ProtocolMax   uint32
	Inventory     Inventory
	Slots         int    // items it works on at once
	CertSerial    string // set by the server from the connection
	RestartReason string // "start", "fenced" or "coordinator_restart", for the log
}

// Registered is the coordinator's answer to a [Registration].
type Registered struct {
	Run              RunID
	Epoch            uint64 // the worker's epoch from now on
	CoordinatorEpoch uint64
	Timing           Timing
	Protocol         uint32 // the version both sides speak from now on
	CommandSeq       uint64 // the last command the coordinator knows as acknowledged
}

// LoadedPlugin is what a worker says of one of its plugins.
type LoadedPlugin struct {
	Name    string
	Version string
	Digest  string // lower-case hex BLAKE3-256
	Mode    PluginMode
}

// Heartbeat proves a whole worker, not only its process.
type Heartbeat struct {
	Worker     WorkerRef
	Seq        uint64    // from 1 in each epoch, one more for each beat sent
	SentAt     time.Time // the worker's wall clock, for the report of drift only
	State      WorkerState
	ControlSeq uint64 // last command seen on the control stream
	WorkOpen   bool   // the worker has opened its work stream
	WorkSeq    uint64 // last message seen on the work stream
	SlotsBusy  int
	Plugins    []LoadedPlugin // sent when they changed since the last acknowledged beat, else nil
}

// BeatAck answers one [Heartbeat].
type BeatAck struct {
	Seq              uint64 // of the beat answered
	CoordinatorEpoch uint64
	ReceivedAt       time.Time // the coordinator's wall clock at receipt
}

// CommandKind is what a coordinator may tell a worker.
type CommandKind string

// The commands.
const (
	CommandDrain  CommandKind = "drain"  // finish and leave
	CommandCancel CommandKind = "cancel" // stop working on a job
	CommandReload CommandKind = "reload" // exchange a plugin
)

// Command is one order to one worker. Commands are numbered from 1 for each
// worker, kept until acknowledged, and sent again after a reconnect, in order.
type Command struct {
	Seq      uint64
	Kind     CommandKind
	Reason   string
	Plugin   string // of a reload
	Job      JobID  // of a cancel
	IssuedAt time.Time
}

// CommandResult acknowledges one [Command] and all before it.
type CommandResult struct {
	Worker WorkerRef
	Seq    uint64
	Code   Code   // CodeUnknown: done
	Detail string // for people, when refused or failed
}

// WorkerInfo is what a [Worker] is told before it starts.
type WorkerInfo struct {
	Ref    WorkerRef
	Run    RunID
	Timing Timing
	Slots  int
}

// Worker is the life of what runs inside a worker process. The runtime calls the
// hooks in the order Init, Ready, then Execute any number of times, then Drain,
// then Shutdown. Every hook may be called again with the same effect, and is
// given a context that bounds its time; one that outstays it is abandoned.
type Worker interface {
	// Init prepares everything that work needs. The worker is in state init.
	Init(ctx context.Context, info WorkerInfo) error
	// Ready is called when the coordinator has accepted the worker as ready.
	Ready(ctx context.Context) error
	// Execute works on items and returns one result for each, in order. Its
	// context ends when the items' leases are lost.
	Execute(ctx context.Context, items []WorkItem) []WorkResult
	// Fence is called when the worker lost its lease: what runs is cancelled, and
	// nothing is submitted until the next Ready. It must return at once.
	Fence(reason string)
	// Drain ends what runs. The worker takes no more.
	Drain(ctx context.Context) error
	// Shutdown releases everything, on every path out.
	Shutdown(ctx context.Context) error
}

// Registry is the coordinator's book of workers, as the wire reaches it. The
// caller's identity has been checked against the worker id already.
type Registry interface {
	// Register begins an epoch. It is durable when it returns. A worker that an
	// operator has forgotten may register again. No common protocol version is
	// [CodeVersionMismatch] with both ranges in the text.
	Register(ctx context.Context, r Registration) (Registered, error)
	// Deregister ends an epoch cleanly: never a failure. Repeating it is no error;
	// an older epoch is [CodeFenced].
	Deregister(ctx context.Context, w WorkerRef, final WorkerState, reason string) error
}

// Beats takes heartbeats, as the wire reaches them.
type Beats interface {
	// Beat records that a worker lives. [CodeFenced]: the epoch is over, register
	// again. [CodeFailedPrecondition]: the coordinator lacks a stream that the
	// worker believes open, reopen it in the same epoch. Beat does no disk access
	// unless the state changed.
	Beat(ctx context.Context, h Heartbeat) (BeatAck, error)
	// Disconnected reports that a worker's heartbeat connection broke, which
	// makes it suspect at once.
	Disconnected(w WorkerRef, reason string)
}

// Control hands commands to workers, as the wire reaches it.
type Control interface {
	// Subscribe streams the commands behind after to send, in order, until ctx
	// ends or a newer subscription of the same worker replaces this one, which is
	// [CodeConflict]. An older epoch is [CodeFenced].
	Subscribe(ctx context.Context, w WorkerRef, after uint64, send func(Command) error) error
	// Acknowledge removes commands up to the result's number. It is durable when
	// it returns, and repeating it is no error.
	Acknowledge(ctx context.Context, r CommandResult) error
}

// Coordinator is everything that a worker's channels reach, and the operator's.
// Its life is Run, which serves until ctx ends and returns the cause.
type Coordinator interface {
	Registry
	Beats
	Control
	// Run serves until ctx ends or a part fails, and returns nil after an ordered
	// shutdown, else the cause.
	Run(ctx context.Context) error
}
