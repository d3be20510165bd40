package core

// AckEmitter is an [EventEmitter] that tells what became of an event, so that
// whoever keeps events elsewhere knows which of them still has to be printed.
type AckEmitter interface {
	EventEmitter
	// EmitAck queues ev like Emit and calls done exactly once, from another
	// goroutine: with nil when the whole line has been handed to the sink or ev
	// is below the emitter's level, with [CodeExhausted] when an event that is not
	// a domain event was dropped for lack of room, with [CodeBroken] when the sink is gone for
	// good (a closed pipe), and with [CodeClosed] when the emitter was closed
	// before the line was out. While the sink is stuck done is not called. done
	// must return quickly, and may call Emit and EmitAck but not Close.
	EmitAck(ev Event, done func(error))
}
