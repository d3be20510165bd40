package cloudlocal

import (
	"container/heap"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// readyItem is an item that can be leased, as the index holds it.
type readyItem struct {
	id    core.ItemID
	tried bool // it has a state row, which a lease must carry on
}

// readyHeap orders the ready items of one lane by number.
type readyHeap []readyItem

func (h readyHeap) Len() int           { return len(h) }
func (h readyHeap) Less(i, j int) bool { return h[i].id < h[j].id }
func (h readyHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *readyHeap) Push(x any)        { *h = append(*h, x.(readyItem)) }
func (h *readyHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// lane holds the items of one priority: a window of ready ones in memory, the
// rest on disk behind the last loaded number. Every item at or before loaded is
// known to the index; items behind it exist only as rows.
type lane struct {
	prio   int32
	ready  readyHeap
	loaded core.ItemID
	disk   int64 // rows behind loaded

	// While a refill scans, items that arrive behind loaded are kept here too,
	// because the scan may have passed their place before their commit.
	refilling bool
	arrived   []readyItem
}

// inFlight reports whether a call is about to file the item.
func (q *queueIndex) inFlight(id core.ItemID) bool {
	if q.guarded[id] {
		return true
	}
	for first, last := range q.inflight {
		if id >= first && id <= last {
			return true
		}
	}
	return false
}

// waiting is an item that becomes ready at a time, or a lease that ends at one.
type waiting struct {
	at    time.Time
	q     *queueIndex
	place place
	token uint64 // of a lease; 0: a delayed item
}

// leased is an item in its owner's hands.
type leased struct {
	lease    core.Lease
	place    place
	attempts int
	losses   int
	maxA     int
	maxL     int
	key      string
	size     int64
	deadline time.Time
	busy     bool // a call is changing it; others find the lease lost
}

// queueIndex is what memory knows of one queue. All fields are guarded by
// Queue.mu.
type queueIndex struct {
	name      string
	lanes     []*lane // by descending priority
	delayed   map[core.ItemID]place
	leases    map[core.ItemID]*leased
	next      core.ItemID // the next number to give out
	high      core.ItemID // numbers up to here are reserved on disk
	dead      int64
	acked     uint64
	added     uint64
	busy      int  // calls between their two halves
	reserving bool // a call is storing a reservation of numbers
	sweeping  bool // a call takes dead items away
	purging   bool // a purge waits for busy to be 0 or removes rows
	waiters   []*waiter
	done      []string // finished idempotency keys, oldest first

	// inflight holds the numbers given to enqueue calls whose commit has not
	// been filed yet, as first -> last. A refill leaves their rows alone.
	inflight map[core.ItemID]core.ItemID
	// guarded holds dead items that are about to be ready again, likewise.
	guarded map[core.ItemID]bool
}

func newQueueIndex(name string) *queueIndex {
	return &queueIndex{
		name: name, next: 1,
		delayed: make(map[core.ItemID]place),
		leases:  make(map[core.ItemID]*leased),

		inflight: make(map[core.ItemID]core.ItemID),
		guarded:  make(map[core.ItemID]bool),
	}
}

// laneOf returns the lane of a priority, made when missing.
func (q *queueIndex) laneOf(prio int32) *lane {
	i, ok := slices.BinarySearchFunc(q.lanes, prio, func(l *lane, p int32) int {
		switch {
		case l.prio > p:
			return -1
		case l.prio < p:
			return 1
		}
		return 0
	})
	if !ok {
		q.lanes = slices.Insert(q.lanes, i, &lane{prio: prio})
	}
	return q.lanes[i]
}

// arrive files a durable item as ready: in memory while the window has room and
// nothing before it lies on disk only, else on disk. An item whose place is
// loaded already always goes to memory, because no refill will find it.
func (q *queueIndex) arrive(p place, tried bool, window int) {
	l := q.laneOf(p.prio)
	switch {
	case p.id <= l.loaded:
		heap.Push(&l.ready, readyItem{id: p.id, tried: tried})
	case l.disk == 0 && !l.refilling && l.ready.Len() < window:
		heap.Push(&l.ready, readyItem{id: p.id, tried: tried})
		l.loaded = p.id
	default:
		l.disk++
		if l.refilling {
			l.arrived = append(l.arrived, readyItem{id: p.id, tried: tried})
		}
	}
}

// pop takes the next ready item. When the next one lies on disk it returns the
// lane to refill instead; nil, nil, false means that nothing is ready.
func (q *queueIndex) pop() (p place, tried bool, refill *lane, ok bool) {
	for _, l := range q.lanes {
		if l.ready.Len() > 0 {
			r := heap.Pop(&l.ready).(readyItem)
			return place{prio: l.prio, id: r.id}, r.tried, nil, true
		}
		if l.disk > 0 {
			return place{}, false, l, false
		}
	}
	return place{}, false, nil, false
}

// readyCount returns how many items could be leased now, on disk or in memory.
func (q *queueIndex) readyCount() int64 {
	var n int64
	for _, l := range q.lanes {
		n += int64(l.ready.Len()) + l.disk
	}
	return n
}

// waiter is a call that waits for items of one or more queues. Its fields are
// guarded by Queue.mu.
type waiter struct {
	ch    chan struct{} // closed when it should look again
	woken bool
}

// wake lets up to n waiting calls look again.
func (q *queueIndex) wake(n int) {
	for n > 0 && len(q.waiters) > 0 {
		w := q.waiters[0]
		q.waiters = q.waiters[1:]
		if !w.woken {
			w.woken = true
			close(w.ch)
			n--
		}
	}
}

// timeline orders what waits for a time.
type timeline []waiting

func (h timeline) Len() int           { return len(h) }
func (h timeline) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timeline) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timeline) Push(x any)        { *h = append(*h, x.(waiting)) }
func (h *timeline) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = waiting{}
	*h = old[:len(old)-1]
	return x
}
