package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// itemsEach is how many items each plugin is given.
const itemsEach = 10

// scoredWork submits items to the three plugins and reads as many results. The three
// are one reward function, so they must agree.
func scoredWork(ctx context.Context, s *stage) (string, error) {
	lines, err := os.ReadFile(filepath.Join(s.source, sample, "sample.jsonl"))
	if err != nil {
		return "", err
	}
	in := s.path("items.jsonl")
	items := bytes.SplitAfterN(lines, []byte("\n"), itemsEach+1)
	if len(items) <= itemsEach {
		return "", fmt.Errorf("the sample has %d lines, %d are needed", len(items), itemsEach)
	}
	if err := os.WriteFile(in, bytes.Join(items[:itemsEach], nil), 0o600); err != nil {
		return "", err
	}
	var first []core.ItemResult
	read, right := 0, 0
	for _, p := range s.plugins() {
		rs, err := s.submit(ctx, p.name, in)
		if err != nil {
			return "", err
		}
		if err := checkResults(rs, first); err != nil {
			return "", fmt.Errorf("%s: %w", p.name, err)
		}
		first = rs
		read += len(rs)
		for _, r := range rs {
			if strings.Contains(string(r.Result), "1.0") {
				right++
			}
		}
	}
	if right == 0 || right == read {
		return "", fmt.Errorf("%d of %d completions are right, which proves nothing", right, read)
	}
	return fmt.Sprintf("%d results of %d items, %d rewarded", read, 3*itemsEach, right), nil
}

// submit gives a file to a plugin, waits, and reads the results.
func (s *stage) submit(ctx context.Context, plugin, in string) ([]core.ItemResult, error) {
	out := s.path(plugin + ".results.jsonl")
	cmd := exec.CommandContext(ctx, s.program("rollout"), "submit", "--plugin", plugin, "--method", "score",
		"--input", in, "--wait", "--output", out, "--addr", s.addr, "--tls-dir", s.path("tls"))
	cmd.Env = cleanEnv()
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[1:], " "), err, text)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	var rs []core.ItemResult
	for line := range bytes.Lines(text) {
		var r core.ItemResult
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("the result %q: %w", line, err)
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// checkResults wants one ok result for each item, in order, equal to another plugin's.
func checkResults(rs, other []core.ItemResult) error {
	if len(rs) != itemsEach {
		return fmt.Errorf("%d results came, not %d", len(rs), itemsEach)
	}
	for i, r := range rs {
		switch {
		case r.Index != int64(i) || r.Status != core.ResultOK || r.WorkerID.IsZero():
			return fmt.Errorf("result %d is %+v", i, r)
		case other != nil && (r.ID != other[i].ID || !bytes.Equal(r.Result, other[i].Result)):
			return fmt.Errorf("result %d is %s %s, another plugin says %s %s", i, r.ID, r.Result, other[i].ID, other[i].Result)
		}
	}
	return nil
}
