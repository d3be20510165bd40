//go:build race

package liveness

// raceEnabled tells that the race detector makes everything several times slower.
const raceEnabled = true
