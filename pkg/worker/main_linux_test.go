package worker

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	spec := os.Getenv(lossyEnv)
	if spec == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := lossyMain(spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
