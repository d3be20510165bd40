package cli

import "github.com/spf13/cobra"

// nouns lists the commands of the rollout tool in the order of its help.
func nouns(t *tool) []*cobra.Command {
	return []*cobra.Command{
		devCmd(t),
		statusCmd(t),
		workersCmd(t),
		drainCmd(t),
		submitCmd(t),
		jobsCmd(t),
		group(cobra.Command{Use: "job", Short: "Show, cancel and read one job"}, jobShowCmd(t), jobCancelCmd(t), jobResultsCmd(t)),
		group(cobra.Command{Use: "queue", Short: "Look into the queue of a job"}, queueStatsCmd(t), queuePeekCmd(t), queuePurgeCmd(t)),
		group(cobra.Command{Use: "dead", Short: "Look after the items that were given up"}, deadListCmd(t), deadShowCmd(t), deadRequeueCmd(t), deadDropCmd(t)),
		eventsCmd(t),
		newPluginCommand(t),
		group(cobra.Command{Use: "store", Short: "Check, copy and inspect stores"}, storeCheckCmd(t), storeBackupCmd(t), storeRestoreCmd(t), storeCompactCmd(t), storeScanCmd(t)),
		objectCmd(t),
		group(cobra.Command{Use: "cert", Short: "Show and issue certificates"}, certShowCmd(t), certIssueCmd(t), certRotateCmd(t)),
		group(cobra.Command{Use: "token", Short: "Make join tokens"}, tokenNewCmd(t)),
		group(cobra.Command{Use: "config", Short: "Check and print the configuration"}, configCheckCmd(t), configPrintCmd(t)),
		doctorCmd(t),
	}
}
