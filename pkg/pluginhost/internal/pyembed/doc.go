// Package pyembed runs Python plugins inside this process, with a libpython that
// is found and opened at run time. Nothing of Python is needed to build, and a
// process that loads no Python plugin never looks for it.
//
// # One interpreter
//
// libpython keeps its state in variables of its own, so that a process has one
// interpreter, started by the first [Open] and kept until the process ends. A
// second, different libpython is refused. The interpreter's main thread is a
// thread of C that sleeps; it holds nothing.
//
// # One thread for each instance
//
// An [Instance] is one object made by a plugin's factory, and one operating system
// thread, with its own Python thread state, that alone calls it. Calls wait in a
// queue; the thread drains many for each wake-up and keeps the interpreter's lock
// between short calls, which is what makes embedded calls fast. It gives the lock
// back whenever a call was long or the queue is empty.
//
// # Calls that do not end
//
// A caller leaves when its context ends. The call that it leaves behind gets the
// exception rollout_plugin.Cancelled; if it still runs one second after its
// deadline, the instance is poisoned: it takes no further call, and its thread
// ends if the call ever returns. Code that keeps the interpreter's lock (a C
// extension that loops) cannot be interrupted and stalls every Python plugin of
// the process, though no Go code.
package pyembed
