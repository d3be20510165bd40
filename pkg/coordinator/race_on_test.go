//go:build race

package coordinator

// raceEnabled tells that the race detector makes everything several times slower.
const raceEnabled = true
