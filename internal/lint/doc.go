// Package lint holds the rules of the house as code, so that `make test` keeps
// them and nobody has to remember them.
//
// A [Rule] reads a [Tree], the parsed source of the repository, and returns a
// [Finding] for each place that breaks it; every finding names the fix. The
// rules are independent of each other and of any tool outside the standard
// library. [Rules] lists them all.
//
// Each rule has fixtures in testdata, small trees that break it in every way
// the rule knows. A rule without a fixture fails the tests, for a rule that
// cannot fail keeps nothing.
//
// The package arrows are a table, [arrows], with the reason of each line beside
// it. A new package starts there.
package lint
