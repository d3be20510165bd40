package core

import (
	"crypto/rand"
	"time"

	"github.com/oklog/ulid/v2"
)

// ulidText is the length of a ULID in Crockford's base 32.
const ulidText = 26

// RunID names one run of the whole system. It is a ULID, made once by the
// coordinator and kept in its [Storage]; every worker takes it over.
type RunID [16]byte

// WorkerID names one worker for as long as its data directory exists. It is a
// ULID, made at the worker's first start and bound to its first key.
type WorkerID [16]byte

// JobID names one submitted job. It is a ULID, so ids sort by submission time
// to the millisecond.
type JobID [16]byte

// NewRunID makes a run id from the wall clock and the system's random source.
func NewRunID() RunID { return RunID(newULID()) }

// NewWorkerID makes a worker id from the wall clock and the system's random source.
func NewWorkerID() WorkerID { return WorkerID(newULID()) }

// NewJobID makes a job id from the wall clock and the system's random source.
func NewJobID() JobID { return JobID(newULID()) }

// newULID panics only when the system has no randomness, as crypto/rand does.
func newULID() ulid.ULID {
	return ulid.MustNew(ulid.Timestamp(time.Now()), rand.Reader)
}

// ParseRunID reads the 26 characters of a ULID. It accepts upper case only, so
// that one id has one spelling; anything else is [CodeInvalidArgument].
func ParseRunID(s string) (RunID, error) { u, err := parseULID("run id", s); return RunID(u), err }

// ParseWorkerID reads a worker id under the rules of [ParseRunID].
func ParseWorkerID(s string) (WorkerID, error) {
	u, err := parseULID("worker id", s)
	return WorkerID(u), err
}

// ParseJobID reads a job id under the rules of [ParseRunID].
func ParseJobID(s string) (JobID, error) { u, err := parseULID("job id", s); return JobID(u), err }

func parseULID(what, s string) (ulid.ULID, error) {
	if len(s) != ulidText {
		return ulid.ULID{}, Errorf("parse "+what, CodeInvalidArgument, "%q is not a ULID: it has %d bytes, not %d", clip(s), len(s), ulidText)
	}
	u, err := ulid.ParseStrict(s)
	if err != nil || u.String() != s {
		return ulid.ULID{}, Errorf("parse "+what, CodeInvalidArgument, "%q is not a ULID of 26 upper-case Crockford characters", clip(s))
	}
	return u, nil
}

// clip bounds foreign text quoted in an error to 64 bytes.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// String returns the 26 characters of the ULID.
func (id RunID) String() string { return ulid.ULID(id).String() }

// IsZero reports whether id is the zero value, which names no run.
func (id RunID) IsZero() bool { return id == RunID{} }

// MarshalText implements [encoding.TextMarshaler]; the zero id is the empty text.
func (id RunID) MarshalText() ([]byte, error) { return marshalULID(id) }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is the zero id.
func (id *RunID) UnmarshalText(b []byte) error { return unmarshalULID("run id", (*[16]byte)(id), b) }

// Time returns the wall-clock time at which the id was made, to the millisecond.
func (id RunID) Time() time.Time { return ulid.Time(ulid.ULID(id).Time()) }

// String returns the 26 characters of the ULID.
func (id WorkerID) String() string { return ulid.ULID(id).String() }

// IsZero reports whether id is the zero value, which names no worker.
func (id WorkerID) IsZero() bool { return id == WorkerID{} }

// MarshalText implements [encoding.TextMarshaler]; the zero id is the empty text.
func (id WorkerID) MarshalText() ([]byte, error) { return marshalULID(id) }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is the zero id.
func (id *WorkerID) UnmarshalText(b []byte) error {
	return unmarshalULID("worker id", (*[16]byte)(id), b)
}

// String returns the 26 characters of the ULID.
func (id JobID) String() string { return ulid.ULID(id).String() }

// IsZero reports whether id is the zero value, which names no job.
func (id JobID) IsZero() bool { return id == JobID{} }

// MarshalText implements [encoding.TextMarshaler]; the zero id is the empty text.
func (id JobID) MarshalText() ([]byte, error) { return marshalULID(id) }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is the zero id.
func (id *JobID) UnmarshalText(b []byte) error { return unmarshalULID("job id", (*[16]byte)(id), b) }

// Time returns the wall-clock time at which the id was made, to the millisecond.
func (id JobID) Time() time.Time { return ulid.Time(ulid.ULID(id).Time()) }

func marshalULID(id [16]byte) ([]byte, error) {
	if id == ([16]byte{}) {
		return []byte{}, nil
	}
	return []byte(ulid.ULID(id).String()), nil
}

func unmarshalULID(what string, id *[16]byte, b []byte) error {
	if len(b) == 0 {
		*id = [16]byte{}
		return nil
	}
	u, err := parseULID(what, string(b))
	if err != nil {
		return err
	}
	*id = u
	return nil
}
