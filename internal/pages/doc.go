// Command pages runs the commands of the documentation, as a reader would type them,
// and compares what they print with what the page shows.
//
//	go run ./internal/pages [-all] [-skip COMMAND]... [-programs DIR] [PAGE...]
//
// A fenced block marked console holds what stands behind its prompts and, below each
// command, what that prints. The blocks of a page run in their order, in one shell,
// in an empty directory of the page's own:
//
//	$ echo one; echo two      a command; lines that go on begin with "> "
//	one                       what must be printed: this line, then any others
//	...
//	^C                        interrupts the program that the page left running
//
// A prompt may have a name in front, as in hub$: each name is a shell of its own, in
// a directory of that name where there is one; hub$ ^C is its Ctrl-C. A command must end with status 0
// unless the next one is echo $?.
//
// Three dots stand for anything, alone on a line for any lines. What differs from run
// to run is compared by its form: ids, hashes, times, durations, sizes, rates, ports.
// The address 127.0.0.1:50051 on a page stands for one that is free.
//
// A comment before a block says how it runs:
//
//	<!-- run: keeps running -->   the command goes on while the page does
//	<!-- run: any numbers -->     numbers are compared by their form too
//	<!-- run: slow -->            with -all only
//	<!-- run: needs root -->      root, or a program on PATH; left out and named elsewhere
//
// A comment <!-- setup ... --> holds commands that a reader does not see, and
// <!-- page: in the tree --> runs a page in the repository itself.
package main
