// Package cli is the command line of the three programs. A main function only calls
// [Coordinator], [Worker] or [Operator]; tests call them too and so start the real
// programs in process.
//
// Each takes its context, arguments and streams and returns the exit status of the
// contract: 0 clean end, 1 failure at run time, 2 wrong usage or configuration, 3
// refused by the other side or nobody there in time, 4 fenced. Standard output
// carries events or what was asked for and nothing else; logs and errors go to
// standard error.
//
// Coordinator and worker have flags by the standard library; the rollout tool has
// commands by noun, one file each, listed in nouns.go.
package cli
