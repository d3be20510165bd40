package pyembed

// which names a callable of an instance.
type which int

// The callables, as the shim numbers them.
const (
	runCall    which = 0 // the plugin's call
	runBatch   which = 1 // many calls in one
	runControl which = 2 // an operation of host.py
	runLoad    which = 3 // the operation that makes the object, with bind after it
)

// The operations of host.py.
const (
	opLoad  = "load"  // import and make the object; payload: the spec
	opStart = "start" // init and preflight; payload: the configuration
	opStop  = "stop"  // the plugin's shutdown
	opDrop  = "drop"  // forget the object
)

// outcome is what a run left. Bytes belong to Python until the next run.
type outcome struct {
	bytes  []byte
	failed bool // bytes is the JSON of an error
	held   bool // the thread still holds the interpreter's lock
}

// thread is one Python thread state. Every method but the last two is called on the
// operating system thread that made it.
type thread interface {
	// run calls one callable. seq, never 0, names the run for interrupt. With more
	// set another run follows at once.
	run(w which, method string, payload []byte, seq uint64, more bool) outcome
	// bind takes the callables of the object that this thread has made.
	bind() error
	// release gives back the interpreter's lock, if held.
	release()
	// drop forgets what the last run left.
	drop()
	// end frees the thread state. Nothing may be called afterwards.
	end()
	// interrupt raises Cancelled in the run seq, if that still runs. It waits for
	// the interpreter's lock.
	interrupt(seq uint64)
	// began tells whether the run seq is in Python now, not merely waiting for the
	// interpreter's lock.
	began(seq uint64) bool
}
