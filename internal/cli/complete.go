package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// completePatience is how long a completion may wait for a coordinator: somebody sits
// before a terminal and has pressed a key.
const completePatience = time.Second

// completeLimit is how many jobs are looked at.
const completeLimit = 50

// fixed completes one of a few words.
func fixed(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// firstArg completes the first argument only.
func (t *tool) firstArg(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, begun)
	}
}

// offer returns the words that begin as typed, each with a description behind a tab.
// Without a coordinator there is nothing to offer, which is no error to show.
func offer(words []string, begun string, err error) ([]string, cobra.ShellCompDirective) {
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	words = slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, begun) })
	return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// workerIDs completes a worker that is in the book.
func (t *tool) workerIDs(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	var words []string
	err := t.asked(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
		rows, err := conn.Workers(ctx)
		for _, w := range rows {
			words = append(words, w.ID.String()+"\t"+string(w.Liveness)+" "+w.Addr)
		}
		return err
	})
	return offer(words, begun, err)
}

// jobIDs completes one of the newest jobs.
func (t *tool) jobIDs(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	var words []string
	err := t.asked(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
		jobs, err := conn.Jobs(ctx, completeLimit)
		for _, j := range jobs {
			words = append(words, j.ID.String()+"\t"+string(j.State)+" "+j.Spec.Plugin+" "+j.Spec.Method)
		}
		return err
	})
	return offer(words, begun, err)
}

// pluginNames completes a plugin that a living worker has.
func (t *tool) pluginNames(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	var words []string
	err := t.asked(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
		rows, err := conn.Workers(ctx)
		for _, w := range rows {
			if w.Liveness != core.LivenessAlive && w.Liveness != core.LivenessSuspect {
				continue
			}
			for _, p := range w.Plugins {
				words = append(words, p.Name+"\t"+p.Version)
			}
		}
		slices.Sort(words)
		words = slices.Compact(words)
		return err
	})
	return offer(words, begun, err)
}

// asked calls f with a connection to the coordinator that the flags typed so far name.
func (t *tool) asked(ctx context.Context, f func(ctx context.Context, conn *transport.AdminConn) error) error {
	ctx, cancel := context.WithTimeout(ctx, completePatience)
	defer cancel()
	t.timeout, t.logLevel = completePatience, "error"
	return t.jobs(ctx, f)
}
