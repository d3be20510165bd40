// Package config reads the configuration of all programs: one schema, four
// layers, every mistake reported at once.
//
// # Layers
//
// Flags beat the environment, the environment beats files, a later file beats an
// earlier one, and all beat the defaults. [Load] remembers for each key where its
// value came from.
//
// A key of the table in schema.go is spelled in a file as TOML says
// (transport.listen_addr) and in the environment as ROLLOUT_TRANSPORT_LISTEN_ADDR,
// lists separated by commas; an empty variable counts as not set. Variables that
// begin with ROLLOUT_SECRET_ or ROLLOUT_PLUGIN_ belong to others; any further
// ROLLOUT_ name that is no key is a warning. The data directory moves defaults only.
//
// # Mistakes
//
// A file is walked once with go-toml's low-level parser against the table, so
// that each violation carries the line of its key: unknown keys with the nearest
// known one, values of a wrong type with what is expected, values outside their
// rule. Then it is decoded as usual, which finds repeated keys and tables. The
// timing rules are checked over the result of all layers and name the line that
// set the value, wherever that was.
package config
