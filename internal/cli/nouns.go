package cli

import "github.com/spf13/cobra"

// nouns lists the commands of the rollout tool in the order of its help.
func nouns(t *tool) []*cobra.Command {
	return []*cobra.Command{
		statusCmd(t),
		workersCmd(t),
		drainCmd(t),
		submitCmd(t),
		jobsCmd(t),
		group("job", "Show, cancel and read one job", jobShowCmd(t), jobCancelCmd(t), jobResultsCmd(t)),
		group("queue", "Look into the queue of a job", queueStatsCmd(t), queuePeekCmd(t), queuePurgeCmd(t)),
		group("dead", "Look after the items that were given up", deadListCmd(t), deadShowCmd(t), deadRequeueCmd(t), deadDropCmd(t)),
		eventsCmd(t),
		group("store", "Check, copy and inspect stores", storeCheckCmd(t), storeBackupCmd(t), storeRestoreCmd(t), storeCompactCmd(t), storeScanCmd(t)),
		group("cert", "Show and issue certificates", certShowCmd(t), certIssueCmd(t), certRotateCmd(t)),
		group("token", "Make join tokens", tokenNewCmd(t)),
		group("config", "Check and print the configuration", configCheckCmd(t), configPrintCmd(t)),
	}
}
