// Package memstore is [core.Storage] in memory, for tests and for programs whose
// state may go with the process. It passes the same kit as package storage,
// except for what a reopen shows. One Store may be shared by any number of users;
// whoever made it closes it.
package memstore
