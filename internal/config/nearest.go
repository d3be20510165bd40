package config

import "strings"

// Nearest returns the known name that a user may have meant by name, the closest one,
// or empty when none is close. A name whose last part is known counts as close whatever
// its table is.
func Nearest(name string, known []string) string {
	best, bestDistance := "", len(name)/3+2
	for _, k := range known {
		if d := distance(name, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return best
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, k := range known {
		if distance(last, k[strings.LastIndexByte(k, '.')+1:]) <= len(last)/5 {
			return k
		}
	}
	return ""
}

// distance is the number of single-byte edits between a and b, a swap of two
// neighbours counting as one. Long foreign names are cut, which bounds the cost.
func distance(a, b string) int {
	const limit = 80
	a, b = a[:min(len(a), limit)], b[:min(len(b), limit)]
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
