package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Type is the type of a key's value.
type Type uint8

// The types.
const (
	TypeString   Type = iota // text
	TypeInt                  // a whole number
	TypeDuration             // text such as "500ms"
	TypeList                 // a list of texts
	TypeRunID                // text of 26 characters
)

// String names the type as an error message does.
func (t Type) String() string {
	switch t {
	case TypeInt:
		return "a whole number"
	case TypeDuration:
		return `a duration in quotes such as "500ms"`
	case TypeList:
		return "a list of strings"
	case TypeRunID:
		return "a ULID in quotes"
	}
	return "a string in quotes"
}

// value is one value of a key's type; the type says which field counts.
type value struct {
	text     string
	number   int64
	duration time.Duration
	list     []string
	run      core.RunID
}

// parseText reads a value as the environment, a flag or a default spells it, and
// returns what is wrong with it otherwise.
func parseText(k Key, s string) (value, string) {
	switch k.Type {
	case TypeInt:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return value{}, fmt.Sprintf("%q is not a whole number", clip(s))
		}
		return k.finish(value{number: n})
	case TypeList:
		var list []string
		for part := range strings.SplitSeq(s, ",") {
			list = append(list, strings.TrimSpace(part))
		}
		return k.finish(value{list: list})
	}
	return k.fromString(s)
}

// fromString reads the types that TOML writes as strings.
func (k Key) fromString(s string) (value, string) {
	switch k.Type {
	case TypeDuration:
		d, err := parseDuration(s)
		if err != nil {
			return value{}, fmt.Sprintf(`%q is not a duration, write for example "500ms", "2s" or "1m30s"`, clip(s))
		}
		return k.finish(value{duration: d})
	case TypeRunID:
		if s == "" {
			return value{}, ""
		}
		id, err := core.ParseRunID(s)
		if err != nil {
			return value{}, fmt.Sprintf("%q is not a ULID of 26 upper-case characters, remove the key to have one made", clip(s))
		}
		return k.finish(value{run: id})
	}
	if k.fold != nil {
		s = k.fold(s)
	}
	return k.finish(value{text: s})
}

func (k Key) finish(v value) (value, string) {
	if k.check != nil {
		if problem := k.check(v); problem != "" {
			return value{}, problem
		}
	}
	return v, ""
}

// parseDuration accepts Go's durations and, of the spellings that files of the
// Rust original use, spaces between the parts and the units min and sec.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil {
		return d, nil
	}
	r := strings.NewReplacer(" ", "", "minutes", "m", "minute", "m", "mins", "m", "min", "m",
		"seconds", "s", "second", "s", "secs", "s", "sec", "s", "msec", "ms", "millis", "ms")
	return time.ParseDuration(r.Replace(s))
}

// store puts v into the key's field.
func (k Key) store(c *Config, v value) {
	switch p := k.bind(c).(type) {
	case *string:
		*p = v.text
	case *int:
		*p = int(v.number)
	case *time.Duration:
		*p = v.duration
	case *[]string:
		*p = v.list
	case *core.RunID:
		*p = v.run
	}
}

// clip bounds foreign text quoted in a message to 64 bytes.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
