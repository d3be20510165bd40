module github.com/rollout-substrate/rollout/failpoints

go 1.26.0

require go.etcd.io/gofail v0.2.0
