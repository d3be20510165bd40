package liveness

import (
	"bytes"
	"container/heap"
)

// checkHeap orders watched workers by their next check, then by id, so that equal
// inputs give transitions in equal order.
type checkHeap []*entry

var _ heap.Interface = (*checkHeap)(nil)

func (h checkHeap) Len() int { return len(h) }

func (h checkHeap) Less(i, j int) bool {
	if h[i].check != h[j].check {
		return h[i].check < h[j].check
	}
	return bytes.Compare(h[i].ref.ID[:], h[j].ref.ID[:]) < 0
}

func (h checkHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (h *checkHeap) Push(x any) {
	e := x.(*entry)
	e.pos = len(*h)
	*h = append(*h, e)
}

func (h *checkHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
