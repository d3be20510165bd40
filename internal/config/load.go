package config

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxFile is the size of a configuration file in bytes above which it is refused.
const maxFile = 1 << 20

// envPrefix begins every variable of ours.
const envPrefix = "ROLLOUT_"

// Flag is a value given on the command line.
type Flag struct {
	Name  string // as the user typed it, such as "--addr"
	Key   string // the key it sets
	Value string // lists separated by commas
	// List stands for Value where the flag was given once for each entry, so that an
	// entry may hold a comma. The key must be a list.
	List []string
}

// Options says what to read.
type Options struct {
	Program Program  // decides defaults that differ; several at once take the coordinator's
	Files   []string // a later file beats an earlier one
	Environ []string // NAME=value, as [os.Environ] gives them
	Flags   []Flag   // what the command line sets
	DataDir string   // moves defaults; empty: [DefaultDataDir]
}

// Origin says which layer set a value.
type Origin string

// The origins.
const (
	FromDefault Origin = "default"
	FromFile    Origin = "file"
	FromEnv     Origin = "environment"
	FromFlag    Origin = "flag"
)

// Source is where a value came from.
type Source struct {
	Origin Origin `json:"origin"`
	Name   string `json:"name,omitempty"` // the file, variable or flag
	Line   int    `json:"line,omitempty"` // of a file
}

// String returns the source as one word or FILE:LINE.
func (s Source) String() string {
	switch {
	case s.Origin == FromFile:
		return fmt.Sprintf("%s:%d", s.Name, s.Line)
	case s.Name != "":
		return s.Name
	}
	return string(s.Origin)
}

// Loaded is a configuration with its history.
type Loaded struct {
	Config   Config
	Sources  map[string]Source // by key name, complete
	Warnings core.Violations   // what is accepted but should be known
}

// loader collects the layers.
type loader struct {
	schema   *schema
	out      *Loaded
	problems core.Violations
}

// Load reads all layers. Its error is [core.CodeConfigInvalid] and holds every
// violation of every layer as [core.Violations].
func Load(o Options) (*Loaded, error) {
	if o.DataDir == "" {
		o.DataDir = DefaultDataDir
	}
	l := &loader{schema: newSchema(), out: &Loaded{Sources: map[string]Source{}}}
	l.out.Config.DataDir = o.DataDir
	l.defaults(o)
	for _, file := range o.Files {
		l.file(file)
	}
	l.environ(o.Environ)
	l.flags(o.Flags)
	l.timing()
	if err := l.problems.Err("config: load"); err != nil {
		return nil, err
	}
	return l.out, nil
}

func (l *loader) set(k Key, v value, src Source) {
	k.store(&l.out.Config, v)
	l.out.Sources[k.Name] = src
}

func (l *loader) fail(v core.Violation) { l.problems = append(l.problems, v) }

func (l *loader) defaults(o Options) {
	for _, k := range l.schema.keys {
		src := Source{Origin: FromDefault}
		if k.def == nil {
			l.out.Sources[k.Name] = src
			continue
		}
		v, problem := parseText(k, k.def(o.DataDir, o.Program))
		if problem != "" {
			l.fail(core.Violation{Key: "--data-dir", Msg: "the default of " + k.Name + " that it gives " + problem})
			continue
		}
		l.set(k, v, src)
	}
}

func (l *loader) file(name string) {
	data, err := readLimited(name)
	if err != nil {
		l.fail(core.Violation{File: name, Msg: err.Error()})
		return
	}
	settings, problems := readFile(l.schema, name, data)
	l.problems = append(l.problems, problems...)
	for _, s := range settings {
		l.set(l.schema.keys[s.key], s.val, Source{Origin: FromFile, Name: name, Line: s.line})
	}
}

// readLimited returns an error without the file's name, which the caller adds.
func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer f.Close() // only read: nothing is lost
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, plainPathError(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("has more than %d bytes, this is no configuration file", maxFile)
	}
	return data, nil
}

func plainPathError(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return fmt.Errorf("cannot be read: %w", pe.Err)
	}
	return err
}

func (l *loader) environ(environ []string) {
	vars := slices.Sorted(slices.Values(environ))
	for _, kv := range vars {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, envPrefix+"SECRET_") || strings.HasPrefix(name, envPrefix+"PLUGIN_") {
			continue
		}
		i, known := l.schema.envs[name]
		switch {
		case !known:
			l.warnEnv(name)
		case text != "":
			l.text(l.schema.keys[i], name, text, Source{Origin: FromEnv, Name: name})
		}
	}
}

func (l *loader) warnEnv(name string) {
	msg := "is not a known variable and has no effect"
	var known []string // without the common prefix, which would make everything look alike
	for env := range l.schema.envs {
		known = append(known, strings.TrimPrefix(env, envPrefix))
	}
	slices.Sort(known) // the same suggestion every time
	if near := Nearest(strings.TrimPrefix(name, envPrefix), known); near != "" {
		msg += ", did you mean " + envPrefix + near + "?"
	}
	l.out.Warnings = append(l.out.Warnings, core.Violation{Key: name, Msg: msg})
}

func (l *loader) flags(flags []Flag) {
	for _, f := range flags {
		i, known := l.schema.byName[f.Key]
		if !known {
			l.fail(core.Violation{Key: f.Name, Msg: "sets no known key"})
			continue
		}
		k, src := l.schema.keys[i], Source{Origin: FromFlag, Name: f.Name}
		if f.List == nil {
			l.text(k, f.Name, f.Value, src)
			continue
		}
		if v, problem := k.finish(value{list: f.List}); problem != "" {
			l.fail(core.Violation{Key: f.Name, Msg: problem})
		} else {
			l.set(k, v, src)
		}
	}
}

func (l *loader) text(k Key, name, text string, src Source) {
	v, problem := parseText(k, text)
	if problem != "" {
		l.fail(core.Violation{Key: name, Msg: problem})
		return
	}
	l.set(k, v, src)
}

// timing fills the intervals that follow the heartbeat interval and checks all
// four together; a rule that needs one which could not be read is passed over.
func (l *loader) timing() {
	t := &l.out.Config.Timing
	if l.isDefault(core.KeyHeartbeatInterval) {
		t.HeartbeatInterval = core.DefaultHeartbeatInterval
	}
	d := core.DefaultTiming(t.HeartbeatInterval)
	if l.isDefault(core.KeySelfFence) {
		t.SelfFence = d.SelfFence
	}
	if l.isDefault(core.KeyFailure) {
		t.Failure = d.Failure
	}
	if l.isDefault(core.KeySkew) {
		t.Skew = d.Skew
	}
	unread := l.unreadTiming()
	if unread[core.KeyHeartbeatInterval] {
		return
	}
	for _, v := range t.Validate() {
		if !unread[v.Key] && (v.Key != core.KeyFailure || len(unread) == 0) {
			l.fail(l.locate(v))
		}
	}
	if len(unread) > 0 {
		return
	}
	for _, v := range t.Warnings() {
		l.out.Warnings = append(l.out.Warnings, l.locate(v))
	}
}

// unreadTiming returns the intervals that a problem has been found with.
func (l *loader) unreadTiming() map[string]bool {
	unread := map[string]bool{}
	for _, p := range l.problems {
		if i, known := l.schema.byName[p.Key]; known && l.schema.keys[i].bindsTiming() {
			unread[p.Key] = true
		}
	}
	return unread
}

func (k Key) bindsTiming() bool {
	return slices.Contains(timingKeys(), k.Name)
}

func timingKeys() []string {
	return []string{core.KeyHeartbeatInterval, core.KeySelfFence, core.KeyFailure, core.KeySkew}
}

func (l *loader) isDefault(key string) bool { return l.out.Sources[key].Origin == FromDefault }

// locate names where a timing violation comes from: the line of its own key, or,
// when that has its default, of the first interval that was set.
func (l *loader) locate(v core.Violation) core.Violation {
	for _, key := range append([]string{v.Key}, timingKeys()...) {
		switch src := l.out.Sources[key]; src.Origin {
		case FromFile:
			v.File, v.Line = src.Name, src.Line
			return v
		case FromEnv, FromFlag:
			v.Msg += " (" + key + " comes from " + src.Name + ")"
			return v
		}
	}
	return v
}
