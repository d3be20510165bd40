// Package parts answers a batch in as many parts as a mode needs: each mode bounds
// what one crossing to the plugin carries.
package parts

import "github.com/rollout-substrate/rollout/pkg/core"

// Answer answers payloads part by part. length returns how many of the payloads that
// it is given, at least one, the next part takes; part answers that many, each, or
// fails as a whole. After a failure the answers so far are kept and the rest carry the
// error; the error is returned only when nothing was answered.
func Answer(payloads [][]byte, length func([][]byte) int, part func([][]byte) ([]core.CallResult, error)) ([]core.CallResult, error) {
	results := make([]core.CallResult, 0, len(payloads))
	for len(results) < len(payloads) {
		rest := payloads[len(results):]
		answers, err := part(rest[:length(rest)])
		if err == nil {
			results = append(results, answers...)
			continue
		}
		if len(results) == 0 {
			return nil, err
		}
		for range rest {
			results = append(results, core.CallResult{Err: err})
		}
	}
	return results, nil
}

// BySize is a length for [Answer]: parts of at most [core.MaxCallPayload] bytes, or
// of one payload.
func BySize(payloads [][]byte) int {
	total := 0
	for i, p := range payloads {
		total += len(p)
		if total > core.MaxCallPayload && i > 0 {
			return i
		}
	}
	return len(payloads)
}
