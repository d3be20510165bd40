// Package coretest holds one conformance kit for each interface of package core.
//
// A kit has one subtest for each sentence of its interface's contract, opens a
// fresh instance for each, and prints the rule that was broken. It needs nothing
// but the standard library, so an implementation outside this repository can
// prove itself with it.
package coretest
