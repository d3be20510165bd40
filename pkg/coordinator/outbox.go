package coordinator

import (
	"context"
	"log/slog"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	printWindow = 1024 // events handed to the emitter and not yet known as printed
	readAhead   = 256  // events read from the store at once
	pruneAtOnce = 512  // events removed with one commit
)

// outbox hands recorded events to the emitter and to operators. An event is
// recorded in the transaction that made its change; from there it is read back,
// so that a stuck sink costs neither memory nor time.
type outbox struct {
	store   core.Storage
	emitter core.EventEmitter
	keep    uint64 // events kept at least
	log     *slog.Logger

	// replayUntil is the last event of an earlier start; what is printed of these
	// may have been printed before.
	replayUntil uint64

	// mu guards what follows. Nothing is called while it is held.
	mu      sync.Mutex
	first   uint64        // the oldest event kept
	last    uint64        // the newest, 0: none
	printed uint64        // every event up to it is printed
	saved   uint64        // printed as the store knows it
	gone    bool          // the sink is gone for good
	changed chan struct{} // closed and replaced when last, printed or gone changes
}

// openOutbox reads where the record of events stands.
func openOutbox(ctx context.Context, s core.Storage, cfg Config) (*outbox, error) {
	o := &outbox{store: s, emitter: cfg.Emitter, keep: uint64(cfg.EventRetention), log: cfg.Logger, changed: make(chan struct{})}
	all := core.NewKey(core.NamespaceEvents)
	for _, end := range []struct {
		reverse bool
		seq     *uint64
	}{{false, &o.first}, {true, &o.last}} {
		es, err := s.Scan(ctx, all, core.ScanOptions{Limit: 1, Reverse: end.reverse})
		if err != nil {
			return nil, err
		}
		if len(es) == 1 {
			if *end.seq, err = lastSegment(es[0].Key); err != nil {
				return nil, err
			}
		}
	}
	o.first = max(o.first, 1)
	printed, err := readNumber(ctx, s, printedKey)
	if err != nil {
		return nil, err
	}
	o.printed, o.saved, o.replayUntil = min(printed, o.last), printed, o.last
	return o, nil
}

func (o *outbox) lastSeq() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// unsavedPrinted returns how far events are printed when the store does not know
// it yet, else 0.
func (o *outbox) unsavedPrinted() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.printed > o.saved {
		return o.printed
	}
	return 0
}

// prune stages the removal of the oldest events beyond what is kept, last being
// the newest of the transaction, and returns the first that stays.
func (o *outbox) prune(tx core.Txn, last uint64) (first uint64, err error) {
	o.mu.Lock()
	first = o.first
	o.mu.Unlock()
	if last < first+o.keep+o.keep/16 {
		return first, nil
	}
	for range pruneAtOnce {
		if last < first+o.keep {
			break
		}
		if err := tx.Delete(eventKey(first)); err != nil {
			return 0, err
		}
		first++
	}
	return first, nil
}

// committed tells what a commit made durable.
func (o *outbox) committed(last, first, printed uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if first > o.printed+1 && first > o.first {
		o.log.Warn("events are removed that were never printed: the record is full", "first_kept", first)
	}
	o.first, o.saved = first, max(o.saved, printed)
	if last > o.last {
		o.last = last
		o.announce()
	}
}

// announce wakes everyone who waits. mu is held.
func (o *outbox) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// settled records the emitter's answer for one event. Answers come in order.
func (o *outbox) settled(seq uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.gone = true
	} else if !o.gone {
		o.printed = max(o.printed, seq)
	}
	o.announce()
}

// outboxView is one look at an outbox.
type outboxView struct {
	first, last, printed uint64
	gone                 bool
	changed              <-chan struct{}
}

func (o *outbox) look() outboxView {
	o.mu.Lock()
	defer o.mu.Unlock()
	return outboxView{o.first, o.last, o.printed, o.gone, o.changed}
}

// run hands events to the emitter until ctx ends. Once the sink is gone it only
// waits: events stay in the record.
func (o *outbox) run(ctx context.Context) error {
	ack, _ := o.emitter.(core.AckEmitter)
	next := o.look().printed
	for {
		v := o.look()
		if v.gone || next >= v.last || next-v.printed >= printWindow {
			select {
			case <-v.changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		es, err := o.read(ctx, next)
		if err != nil {
			return endOf(ctx, err)
		}
		next = v.last
		for _, e := range es {
			o.emit(ack, e)
			next = e.Seq
		}
	}
}

func (o *outbox) emit(ack core.AckEmitter, e core.StoredEvent) {
	e.Event.Replayed = e.Seq <= o.replayUntil
	if ack == nil {
		o.emitter.Emit(e.Event)
		o.settled(e.Seq, nil)
		return
	}
	ack.EmitAck(e.Event, func(err error) { o.settled(e.Seq, err) })
}

// read returns the next events behind after.
func (o *outbox) read(ctx context.Context, after uint64) ([]core.StoredEvent, error) {
	from := eventKey(after)
	es, err := o.store.Scan(ctx, core.NewKey(core.NamespaceEvents), core.ScanOptions{Limit: readAhead, After: &from})
	if err != nil {
		return nil, err
	}
	out := make([]core.StoredEvent, len(es))
	for i, e := range es {
		if out[i], err = decodeEvent(e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// drain waits until everything recorded is printed or the sink is gone.
func (o *outbox) drain(ctx context.Context) error {
	for {
		v := o.look()
		if v.gone || v.printed >= v.last {
			return nil
		}
		select {
		case <-v.changed:
		case <-ctx.Done():
			return core.Errorf("events", core.CodeDeadlineExceeded, "%d events are recorded and not printed, the next start prints them", v.last-v.printed)
		}
	}
}

// follow sends recorded events behind after; see [core.Admin].
func (o *outbox) follow(ctx context.Context, after uint64, follow bool, stop <-chan struct{}, send func(core.StoredEvent) error) error {
	for {
		v := o.look()
		switch {
		case after != 0 && after+1 < v.first:
			return core.Errorf("events", core.CodeCompacted, "event %d is no longer kept, the oldest is %d", after+1, v.first)
		case after < v.last:
			es, err := o.read(ctx, after)
			if err != nil {
				return err
			}
			for _, e := range es {
				if after != 0 && e.Seq != after+1 { // pruned since the look
					return core.Errorf("events", core.CodeCompacted, "event %d is no longer kept", after+1)
				}
				if err := send(e); err != nil {
					return err
				}
				after = e.Seq
			}
			if len(es) == 0 {
				after = v.last
			}
			continue
		case !follow:
			return nil
		}
		select {
		case <-v.changed:
		case <-ctx.Done():
			return core.Wrap("events", core.CodeCanceled, ctx.Err())
		case <-stop:
			return core.Errorf("events", core.CodeUnavailable, "the coordinator is stopping")
		}
	}
}
