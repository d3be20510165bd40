package core

import (
	"encoding/json"
	"time"
)

// MaxInlinePayload is the size in bytes above which a payload or result travels
// as a content id through the object store instead of inside a message.
const MaxInlinePayload = 256 << 10

// JobSpec is what a submitter asks for.
type JobSpec struct {
	ID          JobID         `json:"id,omitzero"`       // chosen by the submitter, who can then ask what became of a submission whose answer was lost; zero: made by the coordinator
	Plugin      string        `json:"plugin"`            // name of the plugin
	Digest      string        `json:"digest"`            // the plugin's digest the job is pinned to; empty: that of the first worker that has the plugin
	Method      string        `json:"method"`            // the plugin's method
	MaxAttempts int           `json:"max_attempts"`      // 0: the coordinator's default
	MaxLosses   int           `json:"max_losses"`        // 0: the coordinator's default
	ItemTimeout time.Duration `json:"item_timeout"`      // deadline of one call; 0: the plugin's call_timeout
	Deadline    time.Time     `json:"deadline,omitzero"` // items not finished by then are dead; zero: none
	Resume      bool          `json:"resume"`            // take finished results of the same input, digest and method
	Priority    int32         `json:"priority"`          // higher is served first
	Source      string        `json:"source,omitempty"`  // free text for the operator, such as the input file's name
}

// JobState is where a job is.
type JobState string

// The states of a job.
const (
	JobOpen     JobState = "open"     // items are still being submitted
	JobRunning  JobState = "running"  // complete, not all items finished
	JobFinished JobState = "finished" // every item has a result
	JobCanceled JobState = "canceled" // stopped by an operator; finished results stay
)

// JobCounts counts the items of a job. Done is OK + Error + Dead.
type JobCounts struct {
	Items   int64 `json:"items"`
	OK      int64 `json:"ok"`
	Error   int64 `json:"error"`
	Dead    int64 `json:"dead"`
	Resumed int64 `json:"resumed"` // of OK: taken from an earlier job
	Leased  int64 `json:"leased"`
	Losses  int64 `json:"losses"` // items requeued because their worker died
}

// Done returns how many items have a result.
func (c JobCounts) Done() int64 { return c.OK + c.Error + c.Dead }

// Job is a submitted job.
type Job struct {
	ID         JobID     `json:"job_id"`
	Spec       JobSpec   `json:"spec"`
	State      JobState  `json:"state"`
	Counts     JobCounts `json:"counts"`
	Reason     string    `json:"reason,omitempty"` // why it was cancelled
	CreatedAt  time.Time `json:"created_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Workers    int       `json:"workers"` // attached workers that can serve it now
}

// JobItem is one input line of a job, in order. Either Payload or Err is set.
type JobItem struct {
	ID      string     // the line's id
	Payload []byte     // handed to the plugin as it stands
	Err     *ItemError // a bad line, which becomes an error result
}

// WorkItem is one item as a worker gets it.
type WorkItem struct {
	Lease    Lease
	Job      JobID
	Index    int64  // from 0, in input order
	ID       string // the input line's id
	Plugin   string
	Digest   string // the worker refuses an item of another digest
	Method   string
	Payload  []byte    // empty when Content is set
	Content  ContentID // of a payload above MaxInlinePayload
	Attempt  int       // from 1
	Timeout  time.Duration
	Deadline time.Time // the job's; zero: none
}

// WorkResult is what a worker made of one item.
type WorkResult struct {
	Lease   Lease
	Result  []byte    // empty when Content is set or Err is not nil
	Content ContentID // of a result above MaxInlinePayload
	Err     error     // why there is no result; its hint decides whether it is tried again
	Elapsed time.Duration
}

// ResultStatus is the outcome of one item.
type ResultStatus string

// The outcomes.
const (
	ResultOK    ResultStatus = "ok"    // the plugin answered
	ResultError ResultStatus = "error" // the plugin answered with an error that is final, or the line was bad
	ResultDead  ResultStatus = "dead"  // given up after too many attempts, losses or a deadline
)

// ItemError is why an item has no result.
type ItemError struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// ItemResult is the outcome of one item, as it is stored and printed: one line
// for each input line, in input order.
type ItemResult struct {
	ID       string          `json:"id"`
	Index    int64           `json:"index"`
	Status   ResultStatus    `json:"status"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *ItemError      `json:"error,omitempty"`
	Attempts int             `json:"attempts"`
	WorkerID WorkerID        `json:"worker_id,omitzero"`
}
