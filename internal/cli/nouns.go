package cli

import "github.com/spf13/cobra"

// nouns lists the commands of the rollout tool in the order of its help.
func nouns(t *tool) []*cobra.Command {
	return []*cobra.Command{
		statusCmd(t),
		workersCmd(t),
		drainCmd(t),
		eventsCmd(t),
		group("store", "Check, copy and inspect stores", storeCheckCmd(t), storeBackupCmd(t), storeRestoreCmd(t), storeCompactCmd(t), storeScanCmd(t)),
		group("cert", "Show and issue certificates", certShowCmd(t), certIssueCmd(t), certRotateCmd(t)),
		group("token", "Make join tokens", tokenNewCmd(t)),
		group("config", "Check and print the configuration", configCheckCmd(t), configPrintCmd(t)),
	}
}
