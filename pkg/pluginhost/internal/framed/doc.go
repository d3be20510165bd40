// Package framed is the fast lane between host and sidecar: length-prefixed
// frames on an AF_UNIX stream that the sidecar inherits as descriptor 3.
//
// # Frame
//
//	u32 big-endian  length of the rest, at most 16 MiB + 4 KiB
//	u8              type
//	u64 big-endian  id, chosen by the host, repeated in the answer; 0 in hello and shutdown
//	...             body
//
// # Bodies
//
//	1 hello     host: {"magic":"rollout-plugin","version":1,"config":{...}}
//	            plugin, after its init and preflight: {"magic","version"}; error instead when they fail
//	2 call      u32 milliseconds left (0: no deadline), u16 length + method, payload
//	3 batch     u32 milliseconds left, u16 length + method, u32 count, count x (u32 length + payload)
//	4 result    to a call: the result; to a batch: u32 count, count x (u8 0 ok or 1 error, u32 length + bytes)
//	5 error     JSON {"code","message","retry"}; also the bytes of a failed batch element
//	6 cancel    no body; the id's call is no longer wanted and should be answered soon
//	7 shutdown  no body; the plugin shuts down, closes the stream and exits
//
// Answers may come in any order. An end of the stream is an order to leave as
// well: a plugin that outlives its host has lost its purpose.
package framed
